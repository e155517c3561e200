"""What one more run of a loop's body costs: without what runs before and after the loop."""

import dataclasses
from collections.abc import Mapping

from bench_tpu import step
from isoprefill_tpu_lab.kernel_costs import KernelCost
from isoprefill_tpu_lab.step_cost import InstructionCost


def count_one_more(
    chip: str, dump: str, kernels: Mapping[str, KernelCost]
) -> list[InstructionCost]:
    """Counts what one device does of the one loop of the program that was compiled with its dump.

    Args:
        kernels: as of `step.count`.
    """
    once, twice = (step.count(chip, dump, kernels, {"while": times}) for times in (1, 2))
    before = {cost.name: cost for cost in once}
    return [
        _less(cost, before[cost.name]) for cost in twice if cost.times > before[cost.name].times
    ]


def _less(cost: InstructionCost, other: InstructionCost) -> InstructionCost:
    return dataclasses.replace(
        cost,
        seconds=cost.seconds - other.seconds,
        hbm_bytes=cost.hbm_bytes - other.hbm_bytes,
        times=cost.times - other.times,
    )
