"""The items of a group as a layout has them: each with the tokens of its labels, in branches."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from isoprefill.request.label_trie import LabelTrie

Tokens = Int32[np.ndarray, "tokens"]


class Branches(NamedTuple):
    """What a layout takes as items: an item with the first branch of its labels, then each other branch.

    A branch that does not begin at the item's first token has columns for what it shares with the branch before it,
    but no rows (csrc/layout.h).

    Attributes:
        rows: the tokens of the rows of each branch.
        shared_lens: how many tokens each branch has in common with the branch before it; None: no item has a second.
        firsts: which branch is the first of each item.
    """

    rows: tuple[Tokens, ...]
    shared_lens: Int64[np.ndarray, "b"] | None
    firsts: Int64[np.ndarray, "n"]

    @classmethod
    def of(
        cls, items: Sequence[Tokens], tries: Sequence[LabelTrie] | None, padded: bool
    ) -> "Branches":
        """Returns those of a group.

        Args:
            items: of the group.
            tries: of their labels, if these have tokens to be computed.
            padded: whether zeros at its end bring each item to the rows of the longest.
        """
        rows, shared, counts = [], [], []
        of_items: Sequence[LabelTrie | None] = [None] * len(items) if tries is None else tries
        for item, trie in zip(items, of_items, strict=True):
            begins = () if trie is None else trie.branches.tolist()
            if trie is None or not len(begins):
                rows.append(item)
                shared.append(0)
                counts.append(1)
                continue
            first, *others = np.split(trie.tokens, begins[1:])
            rows += [np.concatenate([item, first]), *others]
            shared += [0, *(item.size + trie.depths[node] - 1 for node in begins[1:])]
            counts.append(len(begins))
        firsts = np.cumsum([0, *counts[:-1]])
        if padded:
            sizes = np.add.reduceat([one.size for one in rows], firsts)
            for last, missing in zip(firsts + counts - 1, sizes.max() - sizes, strict=True):
                rows[last] = np.pad(rows[last], (0, missing))
        shared_lens = np.asarray(shared, np.int64)
        return cls(tuple(rows), shared_lens if shared_lens.any() else None, firsts)

    @property
    def repeated(self) -> int:
        """How many columns repeat those of other branches."""
        return 0 if self.shared_lens is None else int(self.shared_lens.sum())

    @property
    def lens(self) -> Int64[np.ndarray, "b"]:
        """Tokens of each branch, those included that it shares."""
        sizes = np.asarray([rows.size for rows in self.rows], np.int64)
        return sizes if self.shared_lens is None else sizes + self.shared_lens
