"""The score command's table on a terminal: it fits the width, and no number is cut."""

import dataclasses
import functools
import shutil
import unicodedata
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, split_graphemes

from isoprefill.cli.score_formats import field_text
from isoprefill.cli.score_rows import Order, Row

GAP = 2  # cells between columns
SHORTEST_ITEM = 12  # cells that the item's column has at least
LONGEST_NAME = 24  # cells of a column's name; ids may have a quarter of a wide terminal
NARROWEST = 20
_JOINERS = "\u200c\u200d"  # format characters that words and emoji need
_ISOLATE, _END_OF_ISOLATE = "\u2068", "\u2069"


@dataclasses.dataclass
class _Column:
    name: str
    cells: list[str]
    optional: bool = False  # left out where there is no room
    left: bool = False

    @functools.cached_property
    def width(self) -> int:
        return max(cell_len(self.name), *map(cell_len, self.cells))


def table_lines(
    rows: Sequence[Row], score_names: Sequence[str], order: Order, width: int | None = None
) -> Iterator[str]:
    """Yields the lines of the table.

    An item that is too long loses its middle. Where the numbers leave no room for items, each has lines of its own.

    Args:
        rows: at least one, in their order.
        score_names: what an item's scores are called; empty for likelihoods.
        order: what the rows are sorted by.
        width: of the terminal, in cells; None asks it.
    """
    width = terminal_width() if width is None else max(NARROWEST, width)
    columns = _columns(rows, score_names, order, width)
    longest = max(cell_len(_start(row.item.text)) for row in rows)
    wanted = max(len("item"), min(longest, 2 * SHORTEST_ITEM))
    for column in reversed([one for one in columns if one.optional]):
        if width - _taken(columns) < wanted:
            columns.remove(column)
    room = width - _taken(columns)
    if room < min(wanted, SHORTEST_ITEM):
        yield from _records(rows, _columns(rows, score_names, order, width), width)
        return
    item_width = max(len("item"), min(room, longest))
    items = [shortened(row.item.text, item_width) for row in rows]
    before = sum(one.name in ("rank", "index", "id") for one in columns)
    columns.insert(before, _Column("item", items, left=True))
    widths = [one.width for one in columns]
    for cells in zip(*([one.name, *one.cells] for one in columns), strict=True):
        yield (
            (" " * GAP)
            .join(
                _padded(cell, size, column.left)
                for cell, size, column in zip(cells, widths, columns, strict=True)
            )
            .rstrip()
        )


def terminal_width() -> int:
    """Returns the cells of a line; 80 if there is no terminal."""
    return max(NARROWEST, shutil.get_terminal_size().columns)


def shortened(text: str, width: int) -> str:
    """Returns a text in at most so many cells, with "…" for its middle if need be; isolated if it has a direction.

    Characters that would move the cursor or the text around it are escaped.
    """
    # What is dropped need not be measured.
    ends = text if len(text) <= 8 * width else text[: 4 * width] + text[-4 * width :]
    shown = _visible(ends)
    if len(ends) < len(text) or cell_len(shown) > width:
        spans, _ = split_graphemes(shown)
        after = (width - 1) // 2
        head = _fitting(spans, width - 1 - after)
        tail = _fitting(spans[::-1], after)
        shown = (
            shown[: head[-1][1] if head else 0] + "…" + shown[tail[-1][0] if tail else len(shown) :]
        )
    if any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in shown):
        return f"{_ISOLATE}{shown}{_END_OF_ISOLATE}"
    return shown


def _columns(
    rows: Sequence[Row], score_names: Sequence[str], order: Order, width: int
) -> list[_Column]:
    """Returns the columns beside the item's; of the optional ones the last goes first."""
    made = []
    if rows[0].rank is not None:
        made.append(_Column("rank", [str(row.rank) for row in rows]))
    made.append(_Column("index", [str(row.item.index) for row in rows]))
    if any("id" in row.item.fields for row in rows):
        longest = max(LONGEST_NAME, width // 4)
        ids = [shortened(field_text(row.item.fields.get("id")), longest) for row in rows]
        made.append(_Column("id", ids, optional=True, left=True))
    if score_names:
        made += [
            _Column(
                shortened(name, LONGEST_NAME),
                [f"{row.scores[place]:.4g}" for row in rows],
            )
            for place, name in enumerate(score_names)
        ]
    else:
        mean = order == "mean"
        made.append(_Column("score", [f"{row.scores[0]:.4f}" for row in rows], optional=mean))
        if mean:
            made.append(_Column("mean", [f"{row.mean:.4f}" for row in rows]))
        made.append(
            _Column("probability", [f"{row.probability:.4g}" for row in rows], optional=True)
        )
    made.append(_Column("tokens", [str(row.num_tokens) for row in rows], optional=True))
    return made


def _taken(columns: Sequence[_Column]) -> int:
    return sum(one.width + GAP for one in columns)


def _records(rows: Sequence[Row], columns: Sequence[_Column], width: int) -> Iterator[str]:
    """Yields a line for each item and one for each of its numbers."""
    for place, row in enumerate(rows):
        number = "" if row.rank is None else f"{row.rank}. "
        yield number + shortened(row.item.text, width - cell_len(number))
        for column in columns:
            if column.name != "rank":
                value = column.cells[place]
                value = shortened(value, width // 2) if column.left else value
                name = shortened(column.name, width - GAP - 1 - cell_len(value))
                yield f"{' ' * GAP}{name} {value}"


def _padded(cell: str, width: int, left: bool) -> str:
    space = " " * (width - cell_len(cell))
    return cell + space if left else space + cell


def _start(text: str) -> str:
    """Returns enough of a text to tell whether it is longer than an item may be."""
    return _visible(text[:1000])


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in _JOINERS else repr(char)[1:-1] for char in text
    )


def _fitting(spans: Sequence[tuple[int, int, int]], room: int) -> list[tuple[int, int, int]]:
    """Returns the graphemes from the start of the list that fit."""
    fitting = []
    for span in spans:
        room -= span[2]
        if room < 0:
            break
        fitting.append(span)
    return fitting
