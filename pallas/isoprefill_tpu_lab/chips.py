"""Public figures of the TPU generations, for estimates and for what libtpu compiles."""

import dataclasses

SMEM_BYTES = 1 << 20  # of every generation here


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChipFigures:
    """The figures of one generation.

    Attributes:
        topology, accelerator_type: the smallest topology that libtpu compiles for.
        vmem_bytes: of a core.
        clock_hz: follows from the peak and the matmul units, 2 * units * side^2 * clock = peak per core.
        hbm_bytes_per_second: per core.
        peak_flops: bfloat16, per core.
        hbm_bytes: per device as JAX counts them: a core of tpu7x, a chip of the others.
        link_bytes_per_second: of one link between chips, one way: the published rate of a chip, both ways together
            (400, 800 and 1,200 GB/s), over its links (4 on v5e and v6e, 6 on v5p and tpu7x), and half of that.
    """

    topology: str
    accelerator_type: str
    vmem_bytes: int
    clock_hz: float
    hbm_bytes_per_second: float
    peak_flops: float
    hbm_bytes: int
    link_bytes_per_second: float

    def of_cores(self, cores: int) -> "ChipFigures":
        """Returns the figures of so many cores that share out every instruction."""
        return dataclasses.replace(
            self,
            hbm_bytes_per_second=cores * self.hbm_bytes_per_second,
            peak_flops=cores * self.peak_flops,
        )


FIGURES = {
    "v5e": ChipFigures(
        topology="v5e:2x2",
        accelerator_type="v5litepod-4",
        vmem_bytes=128 << 20,
        clock_hz=1.5e9,
        hbm_bytes_per_second=819e9,
        peak_flops=197e12,
        hbm_bytes=16 << 30,
        link_bytes_per_second=50e9,
    ),
    "v6e": ChipFigures(
        topology="v6e:2x2",
        accelerator_type="v6e-4",
        vmem_bytes=128 << 20,
        clock_hz=1.75e9,
        hbm_bytes_per_second=1640e9,
        peak_flops=918e12,
        hbm_bytes=32 << 30,
        link_bytes_per_second=100e9,
    ),
    # Two cores a chip, half of its bandwidth and peak each.
    "v5p": ChipFigures(
        topology="v5p:2x2x1",
        accelerator_type="v5p-8",
        vmem_bytes=64 << 20,
        clock_hz=1.75e9,
        hbm_bytes_per_second=2765e9 / 2,
        peak_flops=459e12 / 2,
        hbm_bytes=95 << 30,
        link_bytes_per_second=100e9,
    ),
    "tpu7x": ChipFigures(
        topology="tpu7x:2x2x1",
        accelerator_type="tpu7x-8",
        vmem_bytes=64 << 20,
        clock_hz=2.2e9,
        hbm_bytes_per_second=7380e9 / 2,
        peak_flops=2307e12 / 2,
        hbm_bytes=96 << 30,
        link_bytes_per_second=100e9,
    ),
}
