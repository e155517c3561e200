"""Writes what `isoprefill doctor` compares a TPU's times with: the compiler's count of each region, for one chip.

    bazel run //tools:estimate_regions -- --chip v6e

No TPU is needed; it takes a minute or two. The rule is that of `bench_tpu --step`. What it prints is a table of
python/isoprefill/doctor/estimated.toml. On v5p it counts both cores of a chip, which are one device.
"""

import tempfile

import numpy as np
from absl import app, flags

from bench_tpu import step
from bench_tpu.one_more_run import count_one_more
from isoprefill.doctor.regions import FULL, Region, regions
from isoprefill_tpu_lab import tpu_compiler
from isoprefill_tpu_lab.chips import FIGURES
from isoprefill_tpu_lab.packs import Pack

_CHIP = flags.DEFINE_enum("chip", "v6e", list(FIGURES), "Chip to estimate for.")
PACK = Pack("doctor", (FULL.query,), (FULL.items,), FULL.query_heads, FULL.kv_heads, FULL.head_dim)


def main(argv: list[str]) -> None:
    chip = _CHIP.value
    with tempfile.TemporaryDirectory() as dump:
        tpu_compiler.prepare_process(chip, dump)
        print(f"[{chip}]", flush=True)
        for region in regions(chip=chip):
            print(f'"{region.name}" = {seconds(region, chip, dump) * 1e3:.4f}', flush=True)


def seconds(region: Region, chip: str, dump: str) -> float:
    """Compiles a region for a chip; returns what one run takes."""
    step.clear(dump)
    with step.for_chip(chip):
        tpu_compiler.compile_for(chip, region.run, np.int32(1), *region.shapes)
    layouts = [shape for shape in region.shapes if hasattr(shape, "schedule")]
    kernels = {}
    if layouts:
        kernels["isoprefill_anchored"] = step.attention_cost(
            PACK, layouts[0].schedule.sizes, chip, dump
        )
    # No measured time counts what runs before and after the loop either.
    return sum(cost.seconds for cost in count_one_more(chip, dump, kernels))


if __name__ == "__main__":
    app.run(main)
