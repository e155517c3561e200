"""The packs that speed is estimated and measured on."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool

from isoprefill_csrc import Layout, build_layout
from isoprefill_pallas.heads import Heads


@dataclasses.dataclass(frozen=True)
class Pack:
    """Requests, and the heads of the model that scores them."""

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
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 2 if self.dtype == "bfloat16" else 4

    @functools.cached_property
    def layout(self) -> Layout:
        return build_layout(prefix_lens=self.prefix_lens, item_lens=self.item_lens)

    @property
    def useful_pairs(self) -> int:
        """Visible (row, column) pairs."""
        prefix_begin, prefix_end, own_begin, own_end = self.layout.row_intervals.astype(np.int64)
        return int((prefix_end - prefix_begin).sum() + (own_end - own_begin).sum())


PACKS = {
    pack.name: pack
    for pack in (
        Pack("W", (2000,), ((20,) * 500,)),
        Pack("S2", (1900,), ((10,) * 500,)),
        Pack("P", (300,) * 32, ((20,) * 10,) * 32),
        Pack("G", (2000,), ((20,) * 499 + (4000,),)),
        Pack("W-smollm2", (2000,), ((20,) * 500,), query_heads=9, kv_heads=3, head_dim=64),
    )
}


def square_mask(layout: Layout, rows: int) -> Bool[np.ndarray, "rows rows"]:
    """Returns the mask of a layout, for splash attention, which needs a column per row.

    Rows beyond the layout see column 0.
    """
    mask = np.zeros((rows, rows), np.bool_)
    mask[: layout.num_rows, : layout.num_columns] = layout.dense_mask()
    mask[layout.num_rows :, 0] = True
    return mask
