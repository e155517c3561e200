"""The packs that speed is judged by."""

import dataclasses

import numpy as np

from isoprefill_pallas.heads import Heads


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Requests of a pack and the heads of the model that scores them."""

    name: str
    prefix_lens: tuple[int, ...]
    item_lens: tuple[tuple[int, ...], ...]
    query_heads: int = 16
    kv_heads: int = 8
    head_dim: int = 128
    dtype: str = "bfloat16"

    @property
    def heads(self) -> Heads:
        return Heads(self.query_heads, self.kv_heads, self.head_dim, self.dtype)

    @property
    def groups(self) -> int:
        return self.heads.groups

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == "bfloat16" else 4


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W", (2000,), ((20,) * 500,)),
        Workload("S2", (1900,), ((10,) * 500,)),
        Workload("P", (300,) * 32, ((20,) * 10,) * 32),
        Workload("G", (2000,), ((20,) * 499 + (4000,),)),
        Workload("W-smollm2", (2000,), ((20,) * 500,), query_heads=9, kv_heads=3, head_dim=64),
    )
}


def useful_pairs(row_intervals: np.ndarray) -> int:
    """Visible (row, column) pairs of a layout."""
    prefix_begin, prefix_end, own_begin, own_end = row_intervals.astype(np.int64)
    return int((prefix_end - prefix_begin).sum() + (own_end - own_begin).sum())


def dense_mask(row_intervals: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """bool [rows, columns], for the splash attention that the kernel is compared with; rows may exceed the layout's.

    Rows beyond the layout see column 0, because splash attention needs a column per row.
    """
    prefix_begin, prefix_end, own_begin, own_end = (x[:, None] for x in row_intervals)
    mask = np.zeros((rows, columns), np.bool_)
    used = row_intervals.shape[1]
    column = np.arange(columns, dtype=np.int32)
    for first in range(0, used, 1024):
        at = slice(first, min(first + 1024, used))
        mask[at] = (column >= prefix_begin[at]) & (column < prefix_end[at])
        mask[at] |= (column >= own_begin[at]) & (column < own_end[at])
    mask[used:, 0] = True
    return mask
