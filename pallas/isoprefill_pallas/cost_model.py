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

from isoprefill_pallas import kernel
from isoprefill_pallas.block_sizes import LANES, BlockSizes
from isoprefill_pallas.chips import Chip
from isoprefill_pallas.compiler_schedule import CompiledKernel, Region
from isoprefill_pallas.schedule import SchedulePart


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

    def seconds(self, chip: Chip) -> float:
        """The larger of compute and memory time, and the time of what is outside the kernel."""
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
    """(static cycles, overhead of a step, cost of each region). `regions` must not overlap."""
    overhead = grid.bundles - sum(region.bundles for region, _ in regions.values())
    in_regions = sum(region.bundles * times for region, times in regions.values())
    cycles = compiled.bundles - grid.bundles + heads * (steps * overhead + in_regions)
    costs = {
        name: RegionCost(region.bundles, times, compiled.utilisation(region))
        for name, (region, times) in regions.items()
    }
    return cycles, overhead, costs


def grid_loop(compiled: CompiledKernel) -> Region:
    """The loop over grid steps: the longest."""
    return max(
        (region for region in compiled.regions if region.kind == "loop"), key=lambda r: r.bundles
    )


def kernel_cost(
    compiled: CompiledKernel,
    part: SchedulePart,
    sizes: BlockSizes,
    *,
    online: bool,
    useful_pairs: int,
    kv_heads: int,
    groups: int,
    head_dim: int,
    itemsize: int,
) -> Cost:
    """The cost of our kernel on a schedule. Pairs and schedule are of one head."""
    grid = grid_loop(compiled)
    found = _kernel_regions(
        compiled, grid, has_anchors=not online, has_windows=sizes.window_keys > 0
    )
    flags = part.steps[kernel.FLAGS]
    group = 1 if online else sizes.unit_group

    def entries(first: int, end: int) -> int:
        return int((part.steps[end] - part.steps[first]).sum())

    def steps_with(flag: int) -> int:
        return int(((flags & flag) == flag).sum())

    whole, masked = entries(kernel.WHOLE, kernel.MASKED), entries(kernel.MASKED, kernel.UNITS_END)
    times = {
        "start": int(((flags & (kernel.FIRST | kernel.FULL)) == kernel.FIRST).sum()),
        "anchors": entries(kernel.ANCHORS, kernel.WHOLE) // sizes.unit_group,
        "full": steps_with(kernel.FULL),
        "values": steps_with(kernel.HAS_UNITS),
        "whole units": whole // group,
        "masked units": masked // group,
        "windows": steps_with(kernel.WINDOWS),
        "finish": steps_with(kernel.LAST),
    }
    regions = {name: (region, times[name]) for name, region in found.items() if name != "values"}
    steps = part.steps.shape[1]
    cycles, overhead, costs = count_cycles(compiled, grid, regions, kv_heads, steps)
    # What the units need before them is inside their branch but outside their loops; count_cycles took it for
    # overhead of every step.
    values = (
        found["values"].bundles
        - regions["whole units"][0].bundles
        - regions["masked units"][0].bundles
    )
    cycles -= kv_heads * values * (steps - times["values"])
    overhead -= values
    costs["values"] = RegionCost(values, times["values"], {})
    windows = (
        int((part.tiles[:, kernel.FIRST_WINDOW :] >= 0).any(axis=1).sum()) * sizes.block_q // LANES
    )
    computed = (
        times["full"] * sizes.block_q * sizes.block_kv
        + (whole + masked) * sizes.unit_q * sizes.unit_kv
        + windows * LANES * sizes.window_keys
    )
    return Cost(
        cycles,
        costs,
        overhead,
        steps,
        computed,
        useful_pairs,
        *_kernel_bytes(part, sizes, kv_heads, groups, head_dim, itemsize),
    )


def _kernel_regions(
    compiled: CompiledKernel, grid: Region, *, has_anchors: bool, has_windows: bool
) -> dict[str, Region]:
    """The stages of our kernel, told apart by what they use and by their order in the program."""
    matmuls = {region: compiled.uses(region, "MATMUL") for region in compiled.regions}
    inside = [region for region in compiled.regions if grid.holds(region)]
    loops = sorted(region for region in inside if region.kind == "loop" and matmuls[region])
    branches = [region for region in inside if region.kind == "if"]
    expected = 3 if has_anchors else 2
    if len(loops) != expected:
        raise ValueError(
            f"expected {expected} loops with products in the kernel, found {len(loops)}"
        )
    whole, masked = loops[-2:]
    found = {"whole units": whole, "masked units": masked}
    if has_anchors:
        found["anchors"] = loops[0]
    both = [region for region in branches if region.holds(whole) and region.holds(masked)]
    found["values"] = min(both, key=lambda region: region.bundles)
    apart = [
        region
        for region in branches
        if not any(
            region.holds(other) or other.holds(region) or region == other
            for other in [*loops, found["values"]]
        )
    ]
    before = [region for region in apart if matmuls[region] and region.end <= whole.begin]
    after = [region for region in apart if matmuls[region] and region.begin >= masked.end]
    found["full"] = max(before, key=lambda region: region.bundles)
    if has_windows:
        found["windows"] = max(after, key=lambda region: region.bundles)
    stages_end = max(region.end for region in found.values())
    transposes = [
        region
        for region in apart
        if not matmuls[region] and region.begin >= stages_end and compiled.uses(region, "XLU") > 8
    ]
    found["finish"] = max(transposes, key=lambda region: region.bundles)
    first_stage = min(region.begin for name, region in found.items())
    starts = [
        region
        for region in apart
        if region.end <= first_stage and not matmuls[region] and compiled.uses(region, "VALU") > 100
    ]
    found["start"] = max(starts, key=lambda region: region.bundles)
    return found


def _kernel_bytes(
    part: SchedulePart, sizes: BlockSizes, kv_heads: int, groups: int, head_dim: int, itemsize: int
) -> tuple[int, int]:
    """Bytes of the blocks that change from one step to the next, and of the transposes of narrow heads."""
    q_tile, key_start = part.steps[kernel.Q_TILE], part.steps[kernel.KEY_START]
    tiles = 1 + int((np.diff(q_tile) != 0).sum())
    blocks = 1 + int((np.diff(key_start) != 0).sum())
    row = head_dim * itemsize
    per_head = tiles * (2 * sizes.block_q * groups * row + 2 * sizes.local_keys * row)
    per_head += tiles * sizes.block_q * (16 + 4 * groups)  # interval bounds in, log-sum-exp out
    per_head += 2 * blocks * sizes.block_kv * row
    outside = 0
    if head_dim % LANES:
        columns = int(part.num_rows)
        outside = (
            2 * columns * row * (2 * groups + 2)
        )  # q, k, v in and the output back, each read and written
    return kv_heads * per_head, kv_heads * outside


def splash_cost(
    compiled: CompiledKernel,
    block_mask: np.ndarray,
    *,
    block_q: int,
    block_kv: int,
    heads: int,
    groups: int,
    head_dim: int,
    itemsize: int,
    useful_pairs: int,
) -> Cost:
    """The cost of JAX's splash attention, whose `block_mask` [q tiles, steps] is 0 where nothing is computed."""
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
    steps = int(block_mask.size)
    cycles, overhead, costs = count_cycles(compiled, grid, regions, heads, steps)
    row = head_dim * itemsize
    moved = heads * (2 * tiles * block_q * row + 2 * active * block_kv * row)
    # It takes heads first; q, k, v and the output are each read and written once to get there.
    outside = 2 * tiles * block_q * row * (2 * heads + 2 * heads // groups)
    return Cost(
        cycles, costs, overhead, steps, active * block_q * block_kv, useful_pairs, moved, outside
    )
