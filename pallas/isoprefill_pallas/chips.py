"""What is known of the TPU generations that the kernel is compiled for. Public figures per chip."""

import dataclasses

import jax

SMEM_BYTES = 1 << 20  # of every generation here


@dataclasses.dataclass(frozen=True, slots=True)
class Chip:
    """One TPU generation.

    Attributes:
        device_kinds: what `jax.Device.device_kind` calls it.
        topology, accelerator_type: the smallest topology that libtpu compiles for.
        vmem_bytes: of a core.
        vmem_limit_bytes: what the kernel may use of them; the rest is the compiler's.
        clock_hz: follows from the peak and the matmul units, 2 * units * side^2 * clock = peak per core.
        hbm_bytes_per_second: per core.
        peak_flops: bfloat16, per core.
        hbm_bytes: per device as JAX counts them: a core of tpu7x, a chip of the others.
    """

    name: str
    device_kinds: tuple[str, ...]
    topology: str
    accelerator_type: str
    vmem_bytes: int
    vmem_limit_bytes: int
    clock_hz: float
    hbm_bytes_per_second: float
    peak_flops: float
    hbm_bytes: int


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v5e",
            ("TPU v5 lite", "TPU v5e"),
            "v5e:2x2",
            "v5litepod-4",
            128 << 20,
            100 << 20,
            1.5e9,
            819e9,
            197e12,
            16 << 30,
        ),
        Chip(
            "v6e",
            ("TPU v6 lite", "TPU v6e"),
            "v6e:2x2",
            "v6e-4",
            128 << 20,
            100 << 20,
            1.75e9,
            1640e9,
            918e12,
            32 << 30,
        ),
        # Two cores a chip, half of its bandwidth and peak each.
        Chip(
            "v5p",
            ("TPU v5", "TPU v5p"),
            "v5p:2x2x1",
            "v5p-8",
            64 << 20,
            56 << 20,
            1.75e9,
            2765e9 / 2,
            459e12 / 2,
            95 << 30,
        ),
        Chip(
            "tpu7x",
            ("TPU7x", "TPU v7x"),
            "tpu7x:2x2x1",
            "tpu7x-8",
            64 << 20,
            56 << 20,
            2.2e9,
            7380e9 / 2,
            2307e12 / 2,
            96 << 30,
        ),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """The generation that calls itself `device_kind`, or None."""
    for chip in CHIPS.values():
        if device_kind in chip.device_kinds:
            return chip
    return None


def present_chip() -> str | None:
    """The name of the TPU that is there, known or not, or None where the kernel runs in the interpreter."""
    if jax.default_backend() != "tpu":
        return None
    kind = jax.devices()[0].device_kind
    chip = chip_of(kind)
    return kind if chip is None else chip.name
