"""What is known of a kernel in a compiled program that the compiler's schedule does not say."""

import dataclasses
from collections.abc import Callable, Sequence

from isoprefill_pallas.layer_kernels import rows_of_tile
from isoprefill_tpu_lab.optimised_program import ArrayShape


@dataclasses.dataclass(frozen=True, slots=True)
class KnownKernel:
    """What is known of one run of a kernel, beyond its instruction.

    Attributes:
        cycles: if the schedule of its grid decides how often its loops run; None: its bundles say it.
    """

    cycles: int | None
    hbm_bytes: int
    operations: float


# Of the shapes of a kernel's operands, and of its results.
KernelCost = Callable[[Sequence[ArrayShape], Sequence[ArrayShape]], KnownKernel]


def layer_kernel_cost(operands: Sequence[ArrayShape], results: Sequence[ArrayShape]) -> KnownKernel:
    """Returns what is known of a kernel of `isoprefill_pallas.layer_kernels`.

    The layer's part of stacked weights passes once for each tile of rows; everything else once.
    """
    (rows, depth), (_, width) = (array.sizes for array in (operands[1], results[0]))
    tiles = -(-rows // rows_of_tile(rows, depth))
    weights = [array for array in operands if len(array.sizes) == 3]
    others = [array for array in (*operands, *results) if len(array.sizes) < 3]
    moved = sum(array.hbm_bytes // array.sizes[0] * tiles for array in weights)
    moved += sum(array.hbm_bytes for array in others)
    return KnownKernel(None, moved, 2.0 * rows * depth * width * len(weights))
