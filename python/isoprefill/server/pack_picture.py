"""What a picture of a request's pack needs: its segments, the columns that each row sees, and the tiles computed."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Int32, Int64

import isoprefill_csrc
from isoprefill.request.token_request import TokenRequest

SMALLEST_TILE = 8
TILES_ACROSS = 64  # at most: so a picture has at most 64^2 tiles, and those of each item


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows, which are also columns; `index` is that of an item."""

    kind: Literal["query", "item", "delimiter"]
    index: int | None
    begin: int
    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class PackPicture:
    """One request as one pack, drawn. T rows.

    Attributes:
        segments: in the order of the rows; together they are all of them.
        positions: of each row, for the model.
        sees: for each row prefix_begin, prefix_end, own_begin, own_end: the two intervals of columns, half open.
        tile: rows and columns of a tile.
        tiles: row_begin, row_end, column_begin, column_end of every tile that is computed. No two overlap, and
            what a row sees lies in them.
    """

    segments: list[Segment]
    positions: Int32[np.ndarray, "T"]
    sees: Int32[np.ndarray, "T 4"]
    tile: int
    tiles: Int32[np.ndarray, "tiles 4"]

    @classmethod
    def of(cls, request: TokenRequest) -> "PackPicture":
        """Returns the picture of a request, whose layout and schedule the C++ op makes."""
        options = request.options
        layout = isoprefill_csrc.build_layout(
            prefix_lens=[request.query.size],
            item_lens=[request.item_lens],
            delimiters=[options.delimiter],
            causal=[options.isolation == "causal"],
        )
        tile = SMALLEST_TILE
        while tile * TILES_ACROSS < layout.num_rows:
            tile *= 2
        schedule = layout.aligned_schedule(block_q=tile, block_kv=tile, local_block=tile)
        row, column, size = schedule.local_blocks
        local = np.stack((row, row + size, column, column + size), 1)
        return cls(
            _segments(request.query.size, layout),
            layout.positions,
            layout.row_intervals.T,
            tile,
            np.concatenate((schedule.tile_visits[:4].T, local)),
        )

    @property
    def pairs_seen(self) -> int:
        """Pairs of a row and a column that it sees."""
        begin, end = self.sees[:, 0::2], self.sees[:, 1::2]
        return int((end - begin).sum(dtype=np.int64))

    @property
    def pairs_computed(self) -> int:
        """Pairs in the tiles that are computed."""
        sides: Int64[np.ndarray, "tiles 2"] = (self.tiles[:, 1::2] - self.tiles[:, 0::2]).astype(
            np.int64
        )
        return int(sides.prod(1).sum())


def _segments(query_len: int, layout: isoprefill_csrc.Layout) -> list[Segment]:
    """Whatever lies between the query and the items, and after them, is a delimiter of one row."""
    made = [Segment("query", None, 0, query_len)]
    ends = (layout.item_first_rows + layout.item_lens).tolist()
    for index, (begin, end) in enumerate(zip(layout.item_first_rows.tolist(), ends, strict=True)):
        if begin > made[-1].end:
            made.append(Segment("delimiter", None, made[-1].end, begin))
        made.append(Segment("item", index, begin, end))
    if layout.num_rows > made[-1].end:
        made.append(Segment("delimiter", None, made[-1].end, layout.num_rows))
    return made
