"""What a kernel costs by the compiler's own schedule: bundles of each region times how often it runs.

The same count serves our kernel and JAX's splash attention:

    cycles = bundles outside the grid's loop
           + heads x (steps x bundles of the loop body outside the named regions
                      + sum over the named regions of bundles x times)

What the pipeline does around a step (starting copies, waiting) is counted for every step, though parts of it are
skipped when a block stays. Waiting for memory is not counted: a lower bound from the bytes moved stands beside it,
and the time of the kernel on a chip is estimated as the larger of the two, plus what moving the bytes takes that are
only brought into another order outside it.
"""

import dataclasses

import numpy as np

from isoprefill_csrc import LANES, StepField, StepFlag
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.schedule import SchedulePart
from isoprefill_tpu_lab.chips import ChipFigures
from isoprefill_tpu_lab.compiler_schedule import CompiledKernel, Region
from isoprefill_tpu_lab.packs import Pack


@dataclasses.dataclass(frozen=True, slots=True)
class RegionCost:
    """One stage of a kernel: its bundles, how often a head runs it, and the busiest units."""

    bundles: int
    times: int
    utilisation: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Static cycles of a kernel on a workload, and where they go.

    Attributes:
        static_cycles: of one core that handles all heads.
        overhead: bundles of a step outside all regions.
        computed_pairs, useful_pairs: (row, column) pairs per head whose score is computed, and that are visible.
        hbm_bytes: moved by the kernel's blocks.
        outside_bytes: read and written before and after the kernel, to bring arrays into the order it takes.
    """

    static_cycles: int
    regions: dict[str, RegionCost]
    overhead: int
    steps: int
    computed_pairs: int
    useful_pairs: int
    hbm_bytes: int
    outside_bytes: int

    @property
    def useful_share(self) -> float:
        return self.useful_pairs / self.computed_pairs

    def seconds(self, chip: ChipFigures) -> float:
        """Returns the larger of compute and memory time, plus the time of what is outside the kernel."""
        bandwidth = chip.hbm_bytes_per_second
        inside = max(self.static_cycles / chip.clock_hz, self.hbm_bytes / bandwidth)
        return inside + self.outside_bytes / bandwidth


def count_cycles(
    compiled: CompiledKernel,
    grid: Region,
    regions: dict[str, tuple[Region, int]],
    heads: int,
    steps: int,
) -> tuple[int, int, dict[str, RegionCost]]:
    """Returns static cycles, overhead of a step, cost of each region. `regions`, with their times, must not overlap."""
    overhead = grid.bundles - sum(region.bundles for region, _ in regions.values())
    in_regions = sum(region.bundles * times for region, times in regions.values())
    cycles = compiled.bundles - grid.bundles + heads * (steps * overhead + in_regions)
    costs = {
        name: RegionCost(region.bundles, times, compiled.utilisation(region))
        for name, (region, times) in regions.items()
    }
    return cycles, overhead, costs


def grid_loop(compiled: CompiledKernel) -> Region:
    """Returns the loop over grid steps: the longest."""
    return max(
        (region for region in compiled.regions if region.kind == "loop"), key=lambda r: r.bundles
    )


def kernel_cost(
    compiled: CompiledKernel, part: SchedulePart, sizes: BlockSizes, pack: Pack, *, online: bool
) -> Cost:
    """Returns the cost of our kernel on a pack, whose schedule is one part without padding."""
    grid = grid_loop(compiled)
    found = _kernel_regions(compiled, grid, sizes, has_anchors=not online)
    flags = part.steps[StepField.FLAGS]

    def entries(first: StepField, end: StepField) -> int:
        return int((part.steps[end] - part.steps[first]).sum())

    starts = (flags & (StepFlag.FIRST | StepFlag.FULL)) == StepFlag.FIRST
    has_windows = (flags & StepFlag.WINDOWS) > 0
    units = entries(StepField.WHOLE_UNITS, StepField.UNITS_END)
    times = {
        "start": int((starts & ~has_windows).sum()),
        "first windows": int((starts & has_windows).sum()),
        "anchors": entries(StepField.ANCHORS, StepField.WHOLE_UNITS) // sizes.unit_group,
        "full": int(((flags & StepFlag.FULL) > 0).sum()),
        "whole units": entries(StepField.WHOLE_UNITS, StepField.MASKED_UNITS) // sizes.unit_group,
        "masked units": entries(StepField.MASKED_UNITS, StepField.UNITS_END) // sizes.unit_group,
        "last windows": int((~starts & has_windows).sum()),
        "finish": int(((flags & StepFlag.LAST) > 0).sum()),
    }
    regions = {name: (region, times[name]) for name, region in found.items()}
    steps = part.steps.shape[1]
    cycles, overhead, costs = count_cycles(compiled, grid, regions, pack.kv_heads, steps)
    windows = int(has_windows.sum()) * sizes.block_q // LANES
    computed = (
        times["full"] * sizes.block_q * sizes.block_kv
        + units * sizes.unit_q * sizes.unit_kv
        + windows * LANES * sizes.window_keys
    )
    moved = _kernel_bytes(part, sizes, pack)
    return Cost(cycles, costs, overhead, steps, computed, pack.useful_pairs, *moved)


def _kernel_regions(
    compiled: CompiledKernel, grid: Region, sizes: BlockSizes, *, has_anchors: bool
) -> dict[str, Region]:
    """Finds the stages of our kernel, told apart by their order in the program and by what they use."""
    stages = _stages(compiled, grid)
    products = [region for region in stages if compiled.uses(region, "MATMUL")]
    names = [
        *(["first windows"] if sizes.window_keys else []),
        *(["anchors"] if has_anchors else []),
        *(["full", "whole units"] if sizes.full_keys else []),
        "masked units",
        *(["last windows"] if sizes.window_keys and sizes.full_keys else []),
    ]
    if len(products) != len(names):
        raise ValueError(
            f"expected the stages {names} with products in the kernel, found {len(products)}"
        )
    found = dict(zip(names, products, strict=True))
    others = [region for region in stages if region not in products]
    before = [region for region in others if region.end <= products[0].begin]
    after = [region for region in others if region.begin >= products[-1].end]
    found["start"] = max(before, key=lambda region: compiled.uses(region, "VALU"))
    found["finish"] = max(after, key=lambda region: compiled.uses(region, "XLU"))
    return found


def _stages(compiled: CompiledKernel, grid: Region) -> list[Region]:
    """Finds the innermost loops with products, and the outermost regions beside them, in program order."""
    inside = [region for region in compiled.regions if grid.holds(region)]
    loops = [r for r in inside if r.kind == "loop" and compiled.uses(r, "MATMUL")]
    branches = [
        region
        for region in inside
        if region.kind == "if"
        and not any(region.holds(loop) or loop.holds(region) for loop in loops)
    ]
    outermost = [r for r in branches if not any(other.holds(r) for other in branches)]
    return sorted([*loops, *outermost])


def _kernel_bytes(part: SchedulePart, sizes: BlockSizes, pack: Pack) -> tuple[int, int]:
    """Returns bytes of the blocks that change from one step to the next, and of the transposes of narrow heads."""
    groups, row = pack.heads.groups, pack.head_dim * pack.itemsize
    q_tile, key_start = part.steps[StepField.Q_TILE], part.steps[StepField.KEY_START]
    tiles = 1 + int((np.diff(q_tile) != 0).sum())
    blocks = 1 + int((np.diff(key_start) != 0).sum())
    per_head = tiles * (2 * sizes.block_q * groups * row + 2 * sizes.local_keys * row)
    per_head += tiles * sizes.block_q * (16 + 4 * groups)  # interval bounds in, log-sum-exp out
    per_head += 2 * blocks * sizes.block_kv * row
    outside = 0
    if pack.head_dim % LANES:  # q, k, v in and the output back, each read and written
        outside = 2 * part.num_rows * row * (2 * groups + 2)
    return pack.kv_heads * per_head, pack.kv_heads * outside


def splash_cost(
    compiled: CompiledKernel,
    block_mask: np.ndarray,
    blocks: tuple[int, int, int],
    pack: Pack,
    head_dim: int,
) -> Cost:
    """Returns the cost of JAX's splash attention, whose `block_mask` [q tiles, steps] is 0 where nothing is computed.

    Args:
        blocks: block_q, block_kv, block_kv_compute.
        head_dim: the pack's, padded.
    """
    grid = grid_loop(compiled)
    branches = [region for region in compiled.regions if region.kind == "if" and grid.holds(region)]
    matmuls = {region: compiled.uses(region, "MATMUL") for region in branches}
    most = max(matmuls.values())
    compute = min(
        (r for r in branches if matmuls[r] >= 0.9 * most), key=lambda region: region.bundles
    )
    stores = [region for region in branches if compiled.uses(region, "VSTORE") > 64]
    start = max((r for r in stores if r.end <= compute.begin), key=lambda region: region.bundles)
    finish = max((r for r in stores if r.begin >= compute.end), key=lambda region: region.bundles)
    active, tiles = int((block_mask > 0).sum()), block_mask.shape[0]
    regions = {"start": (start, tiles), "compute": (compute, active), "finish": (finish, tiles)}
    steps, heads = int(block_mask.size), pack.query_heads
    cycles, overhead, costs = count_cycles(compiled, grid, regions, heads, steps)
    block_q, block_kv, _ = blocks
    row = head_dim * pack.itemsize
    moved = heads * (2 * tiles * block_q * row + 2 * active * block_kv * row)
    # It takes heads first; q, k, v and the output are each read and written once to get there.
    outside = 2 * tiles * block_q * row * (2 * heads + 2 * pack.kv_heads)
    computed = active * block_q * block_kv
    return Cost(cycles, costs, overhead, steps, computed, pack.useful_pairs, moved, outside)
