"""The TPU generations that the kernel is compiled for."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True, slots=True)
class Chip:
    """One TPU generation.

    Attributes:
        device_kinds: what `jax.Device.device_kind` calls it.
        vmem_limit_bytes: what the kernel may use of a core's VMEM; the rest is the compiler's.
        matrix_unit: rows and columns of a matrix unit, which multiplies with so many columns at once.
    """

    name: str
    device_kinds: tuple[str, ...]
    vmem_limit_bytes: int
    matrix_unit: int


DEFAULT_MATRIX_UNIT = 256  # of a chip that is not known

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 100 << 20, 128),
        Chip("v6e", ("TPU v6 lite", "TPU v6e"), 100 << 20, 256),
        Chip("v5p", ("TPU v5", "TPU v5p"), 56 << 20, 128),
        Chip("tpu7x", ("TPU7x", "TPU v7x"), 56 << 20, 256),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the generation that calls itself `device_kind`, or None."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.device_kinds), None)


def present_chip() -> str | None:
    """Returns the name of the TPU that is there, known or not; None where the kernel runs in the interpreter."""
    if jax.default_backend() != "tpu":
        return None
    kind = jax.devices()[0].device_kind
    chip = chip_of(kind)
    return kind if chip is None else chip.name
