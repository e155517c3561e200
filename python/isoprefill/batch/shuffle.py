"""The shuffle: each unit of the input becomes parts, files whose rows have the order of the output.

A part is an Arrow IPC file: the columns of Parquet, or lines of JSON Lines as they are, and the keys. A unit is done
when the list of its parts is there. A block is then read from an interval of every part.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from isoprefill.batch.block_plan import Interval, Keys, PartIndex
from isoprefill.batch.cells import Cells
from isoprefill.batch.input_files import Unit, lines_of, tables_of
from isoprefill.batch.job_files import Work, part_name, unit_name
from isoprefill.batch.json_values import Kinds, joined_kinds, kind_of, parse_line
from isoprefill.batch.row_order import rows_in_order

PART_ROWS = 1 << 18
PART_BYTES = 128 << 20
READ_ROWS = 1 << 13
BATCH_ROWS = 512  # what is read of a part at least
KEYS = ("isoprefill:query", "isoprefill:item", "isoprefill:items")
LINE = "isoprefill:line"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ShuffledUnit:
    """What a unit became.

    Attributes:
        parts: of each, how many rows it has where.
        kinds: of the columns of JSON Lines.
    """

    parts: tuple[PartIndex, ...]
    kinds: Kinds

    def text(self) -> str:
        return json.dumps({"parts": [one.as_json() for one in self.parts], "kinds": self.kinds})

    @classmethod
    def parse(cls, text: str) -> "ShuffledUnit":
        value = json.loads(text)
        return cls(tuple(map(PartIndex.from_json, value["parts"])), value["kinds"])


def shuffle_unit(work: Work, number: int, unit: Unit) -> ShuffledUnit:
    """Writes the parts of a unit, unless they are there.

    Raises:
        ValueError: the input cannot be read; names the file.
    """
    directory = work.directory()
    if directory.exists(unit_name(number)):
        return ShuffledUnit.parse(directory.read_text(unit_name(number)))
    indices: list[PartIndex] = []
    all_kinds: list[Kinds] = []
    for table, cells, kinds in _parts(work, unit):
        keys = _keys(work, cells)
        order = np.lexsort((keys.item, keys.query))
        for name, column in zip(KEYS, keys, strict=True):
            table = table.append_column(name, [column])
        _write(directory, part_name(number, len(indices)), table.take(order))
        indices.append(PartIndex.of(keys))
        all_kinds.append(kinds)
    found = ShuffledUnit(tuple(indices), joined_kinds(all_kinds))
    directory.write_text(unit_name(number), found.text())
    return found


def read_interval(work: Work, parts: Sequence[str], interval: Interval) -> Any:
    """Returns rows of a part as a pyarrow.Table, with their keys."""
    import pyarrow as pa

    directory = work.directory()
    with directory.open(parts[interval.part]) as source:
        file = pa.ipc.open_file(source)
        first = interval.begin // BATCH_ROWS
        last = -(-interval.end // BATCH_ROWS)
        batches = [file.get_batch(number) for number in range(first, last)]
        table = pa.Table.from_batches(batches, file.schema)
        return table.slice(interval.begin - first * BATCH_ROWS, interval.end - interval.begin)


def read_keys(work: Work, parts: Sequence[str], interval: Interval) -> Keys:
    """Returns the keys of rows of a part."""
    table = read_interval(work, parts, interval)
    return Keys(*(table[name].to_numpy() for name in KEYS))


def read_block(work: Work, parts: Sequence[str], block: Sequence[Interval]) -> Any:
    """Returns the rows of a block in their order, as a pyarrow.Table without the keys."""
    import pyarrow as pa

    table = pa.concat_tables([read_interval(work, parts, one) for one in block])
    order = np.lexsort((table[KEYS[1]].to_numpy(), table[KEYS[0]].to_numpy()))
    return rows_in_order(table.drop_columns(list(KEYS)), order)


def records_of(table: Any) -> list[tuple[dict[str, Any], str | None]]:
    """Returns the parsed lines of a table of JSON Lines."""
    return [parse_line(line) for line in table[LINE].to_pylist()]


def _keys(work: Work, cells: Cells) -> Keys:
    lists = work.columns.items is not None
    return Keys(
        cells.query_keys(),
        cells.item_keys(work.scoring.deduplicate, lists),
        cells.item_counts(lists),
    )


def _parts(work: Work, unit: Unit) -> Iterator[tuple[Any, Cells, Kinds]]:
    """Yields the rows of a unit, as many at once as a part holds."""
    if unit.format == "jsonl":
        yield from _line_parts(work, unit)
        return
    import pyarrow as pa

    held: list[Any] = []
    for table in tables_of(unit, work.arrow_schema(), READ_ROWS):
        held.append(table)
        if (
            sum(one.num_rows for one in held) >= PART_ROWS
            or sum(one.nbytes for one in held) >= PART_BYTES
        ):
            whole = pa.concat_tables(held).combine_chunks()
            yield whole, Cells.of_table(whole, work.columns), {}
            held = []
    if held:
        whole = pa.concat_tables(held).combine_chunks()
        yield whole, Cells.of_table(whole, work.columns), {}


def _line_parts(work: Work, unit: Unit) -> Iterator[tuple[Any, Cells, Kinds]]:
    lines: list[bytes] = []
    size = 0
    for line in lines_of(unit):
        lines.append(line)
        size += len(line)
        if len(lines) >= PART_ROWS or size >= PART_BYTES // 4:  # parsed they are larger
            yield _line_part(work, lines)
            lines, size = [], 0
    if lines:
        yield _line_part(work, lines)


def _line_part(work: Work, lines: list[bytes]) -> tuple[Any, Cells, Kinds]:
    import pyarrow as pa

    records = [parse_line(line) for line in lines]
    kinds = joined_kinds(
        {name: kind_of(value) for name, value in values.items()} for values, _ in records
    )
    table = pa.table({LINE: pa.array(lines, pa.binary())})
    return table, Cells.of_records(records, work.columns), kinds


def _write(directory: Any, name: str, table: Any) -> None:
    import pyarrow as pa

    options = pa.ipc.IpcWriteOptions(compression="lz4")
    table = table.combine_chunks()
    with (
        directory.writing(name) as file,
        pa.ipc.new_file(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table, max_chunksize=BATCH_ROWS)
