"""Tables with their scores: what a block of the output holds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from isoprefill.batch.cells import Cells
from isoprefill.batch.columns import ERROR, NUM_TOKENS, output_names, score_names
from isoprefill.batch.row_scoring import RowScorer, RowScores
from isoprefill.batch.work_counts import WorkCounts


@dataclasses.dataclass(frozen=True, slots=True)
class OutputShape:
    """What a row of the output holds.

    Attributes:
        item_lists: a list of scores, as a row has a list of items.
        label_lists: a list of scores, as a row has a list of labels.
    """

    item_lists: bool = False
    label_lists: bool = False


def scored_table(
    scorer: RowScorer, table: Any, cells: Cells, shape: OutputShape
) -> tuple[Any, WorkCounts]:
    """Returns a table with the columns of the input and those of the scores, in the same order, and what it took.

    Args:
        scorer: the model.
        table: a pyarrow.Table of the input's columns.
        cells: its scored columns.
        shape: of the output.
    """
    import pyarrow as pa

    columns, work = (_of_lists if shape.item_lists else _of_items)(scorer, cells, shape)
    work.rows = table.num_rows
    names = output_names(table.column_names, list(columns))
    return pa.table(dict(zip(names, table.columns, strict=True)) | columns), work


def _of_items(
    scorer: RowScorer, cells: Cells, shape: OutputShape
) -> tuple[dict[str, Any], WorkCounts]:
    import pyarrow as pa

    found = scorer.score(cells.queries, cells.items, cells.labels)
    _put_errors(found, cells)
    good = np.asarray([one is None for one in found.errors], bool)
    columns = {}
    if shape.label_lists:
        columns["score"] = _lists(
            found.scores[np.arange(found.scores.shape[1]) < found.widths[:, None]],
            found.widths,
            pa.float64(),
            ~good,
        )
    else:
        # With a column of labels the scores have no names: each row has its own.
        for place, name in enumerate(score_names([] if cells.labels is not None else scorer.names)):
            columns[name] = pa.array(found.scores[:, place], pa.float64(), mask=~good)
    columns[NUM_TOKENS] = pa.array(found.num_tokens, pa.int32(), mask=~good)
    columns[ERROR] = pa.array(found.errors, pa.string())
    work = found.work
    work.items, work.errors = good.size, int((~good).sum())
    return columns, work


def _of_lists(
    scorer: RowScorer, cells: Cells, shape: OutputShape
) -> tuple[dict[str, Any], WorkCounts]:
    """Scores rows that hold lists: a list of no items is null, and the list of its errors has one."""
    import pyarrow as pa

    queries: list[Any] = []
    items: list[Any] = []
    counts = np.zeros(len(cells.queries), np.int32)
    of_row: list[str | None] = list(cells.errors or [None] * len(cells.queries))
    for row, (query, listed) in enumerate(zip(cells.queries, cells.items, strict=True)):
        of_row[row] = of_row[row] or _list_error(listed)
        if of_row[row] is None:
            queries += [query] * len(listed)
            items += listed
            counts[row] = len(listed)
    found = scorer.score(queries, items)
    good = np.asarray([one is None for one in found.errors], bool)
    bad_rows = np.asarray([one is not None for one in of_row], bool)
    columns = {}
    for place, name in enumerate(score_names(scorer.names)):
        values = pa.array(found.scores[:, place], pa.float64(), mask=~good)
        columns[name] = _lists(values, counts, pa.float64(), bad_rows)
    tokens = pa.array(found.num_tokens, pa.int32(), mask=~good)
    columns[NUM_TOKENS] = _lists(tokens, counts, pa.int32(), bad_rows)
    places = np.concatenate([[0], np.cumsum(counts)]).tolist()
    columns[ERROR] = pa.array(
        [
            found.errors[places[row] : places[row + 1]] if code is None else [code]
            for row, code in enumerate(of_row)
        ],
        pa.list_(pa.string()),
    )
    work = found.work
    work.items = good.size + int(bad_rows.sum())
    work.errors = int((~good).sum()) + int(bad_rows.sum())
    return columns, work


def _put_errors(found: RowScores, cells: Cells) -> None:
    """Gives rows that could not be read their own error: their cells are null, which is an error as well."""
    for row, code in enumerate(cells.errors or ()):
        if code is not None:
            found.errors[row] = code


def _list_error(listed: Any) -> str | None:
    if listed is None:
        return "missing_items"
    if not isinstance(listed, list):
        return "invalid_items_type"
    return None if listed else "empty_items"


def _lists(values: Any, counts: np.ndarray, kind: Any, missing: Sequence[bool] | np.ndarray) -> Any:
    import pyarrow as pa

    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(
        offsets, pa.array(values, kind), mask=pa.array(np.asarray(missing, bool))
    )
