"""The files of the input: found, checked, and divided into units, which the shuffle reads one by one."""

import dataclasses
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from isoprefill.batch.columns import InputColumns
from isoprefill.batch.directory import open_place
from isoprefill.batch.json_values import parse_line
from isoprefill.batch.manifest import InputFile

Format = Literal["parquet", "jsonl"]
_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
}
UNIT_BYTES = 128 << 20
LINE_BYTES = 64 << 20  # at most
PROBED_LINES = 1_000  # in which a column must occur


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """A piece of an input file: row groups [begin, end) of Parquet, or bytes of JSON Lines; end -1 is the file's."""

    path: str
    format: Format
    begin: int
    end: int


def find_files(paths: Sequence[str]) -> tuple[tuple[InputFile, ...], Format]:
    """Returns the files at these paths, those below a directory sorted, and their common format.

    Raises:
        ValueError: a path does not exist, or its name does not end in a format's suffix; or no file is left, or their
            formats differ.
    """
    found: list[InputFile] = []
    for path in paths:
        found += _files_at(path)
    if not found:
        raise ValueError(f"input {', '.join(paths)} holds no files")
    seen: set[str] = set()
    for one in found:
        if one.path in seen:
            raise ValueError(f"input {one.path} is given twice")
        seen.add(one.path)
    formats = {_format(one.path) for one in found}
    if len(formats) > 1:
        raise ValueError("input must be either Parquet or JSON Lines, got both: run a job for each")
    (form,) = formats
    assert form is not None  # _files_at has checked it
    return tuple(found), form


def check_parquet(files: Sequence[InputFile], columns: InputColumns) -> Any:
    """Returns the common schema of Parquet files.

    Raises:
        ValueError: a file cannot be read, lacks a column, has one of a type that cannot be scored, or does not go
            together with the others; names it.
    """
    import pyarrow as pa

    schemas = []
    for file in files:
        schema = _parquet(file.path).schema_arrow.remove_metadata()
        if len(set(schema.names)) < len(schema.names):
            raise ValueError(f"input {file.path} has two columns of one name")
        for name in columns.names:
            if name not in schema.names:
                raise _missing(name, file.path, schema.names)
            _check_type(schema.field(name).type, name, file.path, columns)
        schemas.append(pa.schema([pa.field(one.name, plain_type(one.type)) for one in schema]))
    try:
        return pa.unify_schemas(schemas)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"input files do not go together: {str(error).splitlines()[0]}") from None


def check_json_lines(files: Sequence[InputFile], columns: InputColumns) -> None:
    """Checks that files of JSON Lines can be read, and have the columns.

    Raises:
        ValueError: one cannot, or has not; names it.
    """
    for file in files:
        lines = lines_of(Unit(file.path, "jsonl", 0, -1))
        names: dict[str, None] = {}
        any_line = False
        for line in itertools.islice(lines, PROBED_LINES):
            any_line = True
            names |= dict.fromkeys(parse_line(line)[0])
        for name in columns.names:
            if any_line and name not in names:
                raise _missing(name, file.path, list(names))


def units_of(files: Sequence[InputFile], form: Format) -> list[Unit]:
    """Divides files into units of about UNIT_BYTES, as far as they can be divided."""
    return [
        unit
        for file in files
        for unit in (_row_groups(file) if form == "parquet" else _byte_ranges(file))
    ]


def lines_of(unit: Unit) -> Iterator[bytes]:
    """Yields the lines that begin in a unit of JSON Lines, without blank ones.

    Raises:
        ValueError: the file cannot be read; names it.
    """
    fs, path = open_place(unit.path)
    try:
        if unit.end < 0:
            with fs.open_input_stream(path, compression="detect") as stream:
                yield from _lines(io.BufferedReader(stream), None, unit.path)
            return
        with fs.open_input_file(path) as stream:
            file = io.BufferedReader(stream)
            file.seek(max(0, unit.begin - 1))
            rest = unit.end - unit.begin
            if unit.begin:  # the line before ends behind this byte
                rest -= len(_line(file, unit.path)) - 1
            yield from _lines(file, rest, unit.path)
    except OSError as error:
        raise _unreadable(unit.path, error) from None


def tables_of(unit: Unit, schema: Any, batch_rows: int) -> Iterator[Any]:
    """Yields the rows of a unit of Parquet as record batches in tables of this schema.

    Raises:
        ValueError: the file cannot be read; names it.
    """
    import pyarrow as pa

    file = _parquet(unit.path)
    try:
        for batch in file.iter_batches(batch_rows, range(unit.begin, unit.end)):
            table = pa.Table.from_batches([batch])
            arrays = [
                table[field.name].cast(field.type)
                if field.name in table.column_names
                else pa.nulls(table.num_rows, field.type)
                for field in schema
            ]
            yield pa.table(arrays, schema=schema)
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(unit.path, error) from None


def plain_type(kind: Any) -> Any:
    """Returns the type of a column's values, where these are only numbers of a dictionary."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _lines(file: Any, rest: int | None, path: str) -> Iterator[bytes]:
    while rest is None or rest > 0:
        line = _line(file, path)
        if not line:
            return
        if rest is not None:
            rest -= len(line)
        line = line.strip()
        if line:
            yield line


def _line(file: Any, path: str) -> bytes:
    """Reads a line, or what is left of it; nothing at the end of the file."""
    line: bytes = file.readline(LINE_BYTES + 1)
    if len(line) > LINE_BYTES:
        raise ValueError(f"input {path} has a line of more than {LINE_BYTES} bytes")
    return line


def _files_at(path: str) -> list[InputFile]:
    from pyarrow import fs as arrow_fs

    fs, inner = open_place(path)
    try:
        info = fs.get_file_info(inner)
        if info.type == arrow_fs.FileType.Directory:
            selector = arrow_fs.FileSelector(inner, recursive=True)
            infos = sorted(fs.get_file_info(selector), key=lambda one: one.path)
            prefix = path.rstrip("/")
            found = [
                (prefix + one.path[len(inner.rstrip("/")) :], one)
                for one in infos
                if one.type == arrow_fs.FileType.File and _is_visible(one.path[len(inner) :])
            ]
            found = [(name, one) for name, one in found if _format(name) is not None]
            if not found:
                raise ValueError(f"input {path} holds no files that end in {', '.join(_SUFFIXES)}")
        elif info.type == arrow_fs.FileType.File:
            if _format(path) is None:
                raise ValueError(f"input {path} must end in one of {', '.join(_SUFFIXES)}")
            found = [(path, info)]
        else:
            raise ValueError(f"input {path} does not exist")
    except OSError as error:
        raise _unreadable(path, error) from None
    return [InputFile(name, one.size, one.mtime_ns) for name, one in found]


def _is_visible(path: str) -> bool:
    """Whether no part of a path begins with what hides files from readers of lakes."""
    return not any(part.startswith(("_", ".")) for part in path.split("/") if part)


def _format(path: str) -> Format | None:
    name = path.lower()
    return next((form for suffix, form in _SUFFIXES.items() if name.endswith(suffix)), None)


def _parquet(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, inner = open_place(path)
    try:
        return pq.ParquetFile(fs.open_input_file(inner))
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from None


def _row_groups(file: InputFile) -> Iterator[Unit]:
    metadata = _parquet(file.path).metadata
    begin, size = 0, 0
    for group in range(metadata.num_row_groups):
        own = metadata.row_group(group).total_byte_size
        if size and size + own > UNIT_BYTES:
            yield Unit(file.path, "parquet", begin, group)
            begin, size = group, 0
        size += own
    if begin < metadata.num_row_groups:
        yield Unit(file.path, "parquet", begin, metadata.num_row_groups)


def _byte_ranges(file: InputFile) -> Iterator[Unit]:
    if file.path.lower().endswith(".gz"):
        yield Unit(file.path, "jsonl", 0, -1)
        return
    for begin in range(0, file.size, UNIT_BYTES):
        yield Unit(file.path, "jsonl", begin, min(file.size, begin + UNIT_BYTES))


def _check_type(kind: Any, name: str, path: str, columns: InputColumns) -> None:
    import pyarrow as pa

    types = pa.types

    def is_text(one: Any) -> bool:
        one = plain_type(one)
        return types.is_string(one) or types.is_large_string(one) or types.is_string_view(one)

    def is_list(one: Any) -> bool:
        return types.is_list(one) or types.is_large_list(one) or types.is_fixed_size_list(one)

    def is_value(one: Any) -> bool:
        return is_text(one) or (is_list(one) and types.is_integer(one.value_type))

    if name == columns.label:
        wanted, fits = (
            "text or lists of text",
            is_text(kind) or (is_list(kind) and is_text(kind.value_type)),
        )
    elif name == columns.items:
        wanted, fits = "lists of text or of token ids", is_list(kind) and is_value(kind.value_type)
    else:
        wanted, fits = "text or lists of token ids", is_value(kind)
    if not (fits or types.is_null(kind)):
        raise ValueError(f"column {name!r} of {path} must hold {wanted}, got {kind}")


def _missing(name: str, path: str, names: Sequence[str]) -> ValueError:
    shown = ", ".join(names[:20]) or "none"
    return ValueError(f"input {path} must have one column {name!r}; it has {shown}")


def _unreadable(path: str, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"input {path} cannot be read: {reason}")
