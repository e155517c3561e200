"""Builds dense masks by the rules of several systems: which row sees which column.

The first rule is the definition of isolation; the others are what published systems compute.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from isoprefill_torch.packing import Packing

MaskRule = Callable[[Packing], Bool[Tensor, "T T"]]


def isolated(packing: Packing) -> Bool[Tensor, "T T"]:
    """Lets row i see column j iff `j <= i` and `seg(j) = 0` or `seg(j) = seg(i) > 0`."""
    own = packing.segments[:, None]
    seen = packing.segments[None, :]
    return not_later(packing) & ((seen == 0) | ((seen == own) & (own > 0)))


def leaky_first_item(packing: Packing) -> Bool[Tensor, "T T"]:
    """Shows item 1 to every later item: a published fault, of a builder that takes blocks 0 and 1 for the prefix."""
    return isolated(packing) | (not_later(packing) & (packing.segments == 1))


def flashinfer_rule(packing: Packing) -> Bool[Tensor, "T T"]:
    """Applies FlashInfer's multi-item rule in its own variables.

    `token_pos_in_items` is 0 on a delimiter and 1, 2, … inside an item. A row at or after `prefix_len` sees the
    columns before `prefix_len`, and of the later ones those in `(row - token_pos_in_items, row]`. The rule is for
    delimiter mode "hidden".
    """
    prefix_len = packing.prefix_len
    rows = torch.arange(packing.segments.numel())[:, None]
    columns = rows.T
    token_pos_in_items = torch.zeros_like(packing.segments)
    for first, length in zip(packing.first_rows, packing.item_lens, strict=True):
        token_pos_in_items[first : first + length] = torch.arange(1, length + 1)
    window = (columns > rows - token_pos_in_items[:, None]) & (columns <= rows)
    item_row = (columns < prefix_len) | window
    return torch.where(rows < prefix_len, columns <= rows, item_row)


def not_later(packing: Packing) -> Bool[Tensor, "T T"]:
    """Lets every row see itself and the rows before it."""
    length = packing.segments.numel()
    return torch.ones(length, length, dtype=torch.bool).tril()
