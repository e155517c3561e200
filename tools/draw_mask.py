"""Draws the mask of a pack as SVG: `bazel run //tools:draw_mask -- --items 3,2,4 --output mask.svg`."""

import pathlib

from absl import app, flags

import callers_directory
from isoprefill import PackedLayout

_PREFIX = flags.DEFINE_integer("prefix", 5, "Tokens of the query.", lower_bound=1)
_ITEMS = flags.DEFINE_list("items", ["3", "2", "4"], "Tokens of each item.")
_DELIMITER = flags.DEFINE_enum(
    "delimiter", "none", ["none", "hidden", "prefix_first"], "Delimiter mode (docs/design.md)."
)
_OUTPUT = flags.DEFINE_string("output", "mask.svg", "File to write.")

CELL = 22
MARGIN = 64
PREFIX_COLOR = "#4c78a8"
ITEM_COLORS = ("#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2")
DELIMITER_COLOR = "#8a8a8a"
HIDDEN_COLOR = "#f1f1f1"


def draw(layout: PackedLayout) -> str:
    """Draws rows from top to bottom and columns from left to right, with a colour where a row sees a column."""
    mask = layout.dense_mask()
    segments = layout.key_segment_ids
    size = MARGIN + CELL * len(segments) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" height="{size}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{size}" height="{size}" fill="white"/>',
    ]
    for row, row_segment in enumerate(layout.segment_ids):
        y = MARGIN + CELL * row
        label = f"{_name(row_segment)} · {layout.positions[row]}"
        parts.append(f'<text x="{MARGIN - 8}" y="{y + 15}" text-anchor="end">{label}</text>')
        for column, segment in enumerate(segments):
            color = _color(segment) if mask[row, column] else HIDDEN_COLOR
            x = MARGIN + CELL * column
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" rx="3" fill="{color}"/>'
            )
    for column, segment in enumerate(segments):
        x = MARGIN + CELL * column + CELL // 2 - 1
        parts.append(f'<text x="{x}" y="{MARGIN - 8}" text-anchor="middle">{_name(segment)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _name(segment: int) -> str:
    return {0: "q", -2: "d"}.get(int(segment), f"i{segment}")


def _color(segment: int) -> str:
    if segment == 0:
        return PREFIX_COLOR
    return DELIMITER_COLOR if segment < 0 else ITEM_COLORS[(segment - 1) % len(ITEM_COLORS)]


def item_lengths(texts: list[str]) -> list[int]:
    if not all(text.isdecimal() and int(text) for text in texts):
        raise app.UsageError(
            f"--items must be integers of at least 1, such as 3,2,4, got {','.join(texts)!r}"
        )
    return list(map(int, texts))


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    layout = PackedLayout.from_lengths(
        _PREFIX.value, item_lengths(_ITEMS.value), delimiter=_DELIMITER.value
    )
    output = pathlib.Path(_OUTPUT.value)
    try:
        output.write_text(draw(layout))
    except OSError as error:
        raise app.UsageError(f"--output: {error}") from None
    print(
        f"{output}: {layout.num_rows} rows, {layout.dense_mask().mean():.0%} of the pairs visible"
    )


if __name__ == "__main__":
    app.run(main)
