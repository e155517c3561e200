"""At which rows of a pack items are read as a whole: for labels, for classes, for their hidden states."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int32

from isoprefill.attention.layout import PackedLayout
from isoprefill.execution.packing import ItemGroup, Pack

# Takes the indices of a group's items, and the values of the rows at which they are read, item after item.
Take = Callable[[Int32[np.ndarray, "n"], Float[np.ndarray, "r N"]], None]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ItemReadout:
    """The rows of a pack at which some of its groups are read.

    Attributes:
        groups: those that are read.
        rows: of the pack: of each of their items the last, or its extraction tokens.
    """

    groups: Pack
    rows: Int32[np.ndarray, "M"]

    @classmethod
    def of(
        cls,
        pack: Pack,
        layout: PackedLayout,
        wanted: Callable[[ItemGroup], bool] = lambda group: True,
    ) -> "ItemReadout":
        """Returns the read-out of a pack with this layout, of those groups that are wanted."""
        groups, rows = [], [np.zeros(0, np.int32)]
        for group, branches in branches_of(pack):
            if wanted(group):
                groups.append(group)
                first_rows = layout.item_first_rows[branches][group.branches.firsts]
                rows.append(item_rows(group, first_rows))
        return cls(tuple(groups), np.concatenate(rows))

    def scatter(self, values: Float[np.ndarray, "M N"], takers: Sequence[Take]) -> None:
        """Hands what was read to the taker of each group's request."""
        begin = 0
        for group in self.groups:
            end = begin + int(group.reads.sum())
            takers[group.request_index](group.indices, values[begin:end])
            begin = end


def branches_of(pack: Pack) -> Iterator[tuple[ItemGroup, slice]]:
    """Returns each group with the place of its branches in the layout, which takes them as items."""
    begin = 0
    for group in pack:
        end = begin + len(group.branches.rows)
        yield group, slice(begin, end)
        begin = end


def item_rows(group: ItemGroup, first_rows: Int32[np.ndarray, "n"]) -> Int32[np.ndarray, "r"]:
    """Returns the rows at which items are read: their last, which have seen all of them, or their extraction tokens."""
    token = group.request.options.extraction_token_id
    if token is None:
        lens = np.asarray([item.size for item in group.items], np.int32)
        return np.asarray(first_rows + lens - 1, np.int32)
    rows = [
        first + np.flatnonzero(item == token)
        for first, item in zip(first_rows, group.items, strict=True)
    ]
    return np.concatenate(rows).astype(np.int32)
