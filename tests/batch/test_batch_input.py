"""The kinds of input, and what is refused at once: the same rows in every form have the same scores.

If one of these fails, a format loses or changes values, or a wrong command line costs a night.
"""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from batch_lakes import lake, read_output, request, write_lake
from isoprefill.batch import input_files
from isoprefill.batch.block_scoring import make_scorer
from isoprefill.batch.columns import InputColumns
from isoprefill.batch.directory import Directory
from isoprefill.batch.input_files import Unit, lines_of, units_of
from isoprefill.batch.job import run_job
from isoprefill.batch.manifest import InputFile
from isoprefill.batch.row_order import rows_in_order

pytest_plugins = ["batch_fixtures"]

pytestmark = pytest.mark.usefixtures("inline_ray")


@pytest.fixture(scope="module")
def table():
    return lake(600, 12)


@pytest.fixture(scope="module")
def scores(table, model_directory):
    """The scores of the rows by their id, from rows as they are."""
    scorer = make_scorer(request("", "o", model_directory).scoring, label_column=False)
    rows = table.sort_by("query")
    found = scorer.score(rows["query"].to_pylist(), rows["item"].to_pylist())
    return dict(zip(rows["id"].to_pylist(), found.scores[:, 0].tolist(), strict=True))


def test_rows_of_parquet(table, scores, model_directory, tmp_path):
    run_job(request(write_lake(table, tmp_path / "lake"), tmp_path / "out", model_directory))
    found = read_output(tmp_path / "out")
    assert dict(zip(found["id"].to_pylist(), found["score"].to_pylist(), strict=True)) == scores


def write_lines(path, records):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        for record in records:
            file.write((record if isinstance(record, str) else json.dumps(record)) + "\n")
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson.gz"])
def test_json_lines(name, table, scores, model_directory, tmp_path):
    """With lines that are no rows, and columns whose values are not of one type."""
    records = table.to_pylist()
    records[3]["extra"] = {"a": [1]}
    records[5]["extra"] = "text"
    records[7]["item"] = 5
    records[9]["query"] = None
    del records[11]["item"]
    lines = [*records, "", "{not JSON", "[1, 2]"]
    run_job(request(write_lines(tmp_path / name, lines), tmp_path / "out", model_directory))
    found = read_output(tmp_path / "out")
    assert found.num_rows == 602
    by_id = {row["id"]: row for row in found.to_pylist() if row["id"] is not None}
    bad = {7: "invalid_items_type", 9: "missing_query", 11: "missing_items"}
    for row, score in scores.items():
        assert by_id[row]["error"] == bad.get(row)
        assert by_id[row]["score"] == (None if row in bad else score)
    assert by_id[3]["extra"] == '{"a":[1]}'
    assert by_id[5]["extra"] == "text"
    assert by_id[7]["item"] == "5"
    others = [row["error"] for row in found.to_pylist() if row["id"] is None]
    assert sorted(others) == ["invalid_body_type", "invalid_json"]


def test_lists_of_items(table, scores, model_directory, tmp_path):
    """A row a query: its list of scores is as long as its list of items, and its errors stand in their places."""
    by_query: dict[str, list] = {}
    for row in table.to_pylist():
        by_query.setdefault(row["query"], []).append(row)
    rows = [
        {"query": query, "ids": [row["id"] for row in rows], "docs": [row["item"] for row in rows]}
        for query, rows in by_query.items()
    ]
    rows[0]["docs"][2] = None
    rows.append({"query": "q", "ids": [], "docs": []})
    rows.append({"query": "q", "ids": [], "docs": None})
    rows.append({"query": None, "ids": [], "docs": [" a", " b"]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lists.parquet")
    columns = InputColumns(item=None, items="docs")
    asked = request(tmp_path / "lists.parquet", tmp_path / "out", model_directory, columns=columns)
    summary = run_job(asked)
    found = read_output(tmp_path / "out").to_pylist()
    assert len(found) == len(rows)
    bad_id = rows[0]["ids"][2]
    for row in found:
        if row["ids"]:
            wanted = [None if one == bad_id else scores[one] for one in row["ids"]]
            assert row["score"] == wanted
            assert row["error"] == [
                "missing_items" if one == bad_id else None for one in row["ids"]
            ]
    odd = [(row["docs"], row["score"], row["error"]) for row in found if not row["ids"]]
    assert sorted(odd, key=repr) == sorted(
        [
            ([], None, ["empty_items"]),
            (None, None, ["missing_items"]),
            ([" a", " b"], [None, None], ["missing_query", "missing_query"]),
        ],
        key=repr,
    )
    assert (summary.counts.rows, summary.counts.items, summary.counts.errors) == (15, 604, 5)


def test_token_ids_and_dictionaries(table, scores, model_directory, tmp_path):
    """Text in a dictionary, as pandas' categories are written, is text; lists of integers are token ids."""
    from byte_level_tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer()
    ids = [tokenizer.encode(one).ids for one in table["item"].to_pylist()]
    made = table.set_column(1, "query", table["query"].dictionary_encode())
    made = made.set_column(2, "item", pa.array(ids, pa.list_(pa.int32())))
    run_job(request(write_lake(made, tmp_path / "lake"), tmp_path / "out", model_directory))
    found = read_output(tmp_path / "out")
    assert dict(zip(found["id"].to_pylist(), found["score"].to_pylist(), strict=True)) == scores


def test_a_column_of_labels(table, model_directory, tmp_path):
    """Each row has the probability of its own label; lists of labels have lists of scores."""
    labels = np.asarray(["x", "y"], object)[np.arange(600) % 2]
    single = table.append_column("label", [labels])
    several = table.append_column("label", pa.array([["x", "y"], ["y"]] * 300))
    columns = InputColumns(label="label")
    rows = []
    for name, made in (("single", single), ("several", several)):
        where = write_lake(made, tmp_path / name)
        run_job(request(where, tmp_path / f"{name} out", model_directory, columns=columns))
        rows.append(read_output(tmp_path / f"{name} out").sort_by("id")["score"].to_pylist())
    assert rows[0] == [scores[0] for scores in rows[1]]
    assert [len(scores) for scores in rows[1]] == [2, 1] * 300


def test_files_of_json_lines_are_cut_between_lines(tmp_path, monkeypatch):
    """A large file is several units; each line must be in exactly one of them."""
    lines = [json.dumps({"n": "x" * (number % 37)}) for number in range(500)]
    path = write_lines(tmp_path / "a.jsonl", lines)
    for size in (1, 7, 100, 1_000, 100_000):
        monkeypatch.setattr(input_files, "UNIT_BYTES", size)
        units = units_of([InputFile(str(path), path.stat().st_size, None)], "jsonl")
        found = [line.decode() for unit in units for line in lines_of(unit)]
        assert found == lines
    assert [line.decode() for line in lines_of(Unit(str(path), "jsonl", 0, -1))] == lines


def test_a_unit_within_a_long_line_does_not_read_all_of_it(tmp_path, monkeypatch):
    """A file without line ends must not fill the memory."""
    monkeypatch.setattr(input_files, "LINE_BYTES", 50)
    path = write_lines(tmp_path / "a.jsonl", ["x" * 1_000, "{}"])
    with pytest.raises(ValueError, match=r"a\.jsonl has a line of more than 50 bytes"):
        list(lines_of(Unit(str(path), "jsonl", 100, 200)))
    assert list(lines_of(Unit(str(path), "jsonl", 990, 2_000))) == [b"{}"]


@pytest.mark.parametrize("lists", [False, True])
def test_a_block_may_have_more_text_than_an_array_holds(lists):
    """2 GB: a hundredth of a lake of long documents. Chunks that are the same array need no memory."""
    text = "x" * (1 << 20)
    chunk = pa.array([[text]] if lists else [text])
    columns = {
        "n": pa.chunked_array([pa.array([number]) for number in range(2_100)]),
        "item": pa.chunked_array([chunk] * 2_100),
    }
    table = pa.table(columns)
    found = rows_in_order(table, np.asarray([3, 2_099, 7]))
    assert found.schema == table.schema
    assert found["n"].to_pylist() == [3, 2_099, 7]
    assert found["item"].to_pylist() == [chunk[0].as_py()] * 3


def test_an_object_store_has_no_object_that_broke_off(tmp_path):
    """Closing an object there is completing it, also where an error closes it."""

    class Store:
        type_name = "s3"

        def open_output_stream(self, path):
            return fs.LocalFileSystem().open_output_stream(path)

    directory = Directory(str(tmp_path))
    directory.fs = Store()

    def break_off():
        with directory.writing("part") as file:
            file.write(b"half")
            raise MemoryError

    with pytest.raises(MemoryError):
        break_off()
    assert not (tmp_path / "part").exists()
    with directory.writing("part") as file:
        pq.write_table(pa.table({"n": [1, 2]}), file)
    assert pq.read_table(tmp_path / "part")["n"].to_pylist() == [1, 2]


def refused(model_directory, tmp_path, make):
    """Runs a job that must not begin; returns what it says."""
    path = make(tmp_path)
    with pytest.raises(ValueError, match=r".") as raised:
        run_job(request(path, tmp_path / "out", model_directory))
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def _parquet(**columns):
    def make(directory):
        pq.write_table(pa.table(columns), directory / "a.parquet")
        return directory / "a.parquet"

    return make


def _file(name, content):
    def make(directory):
        (directory / name).write_bytes(content)
        return directory / name

    return make


def _mixed(directory):
    _parquet(query=["a"], item=["b"])(directory)
    return _file("b.jsonl", b'{"query": "a", "item": "b"}\n')(directory).parent


WRONG = {
    "no such file": (lambda directory: directory / "x.parquet", "does not exist"),
    "another suffix": (_file("a.csv", b"a"), "must end in one of .parquet"),
    "nothing in a directory": (lambda directory: directory, "holds no files that end in"),
    "no Parquet": (_file("a.parquet", b"something else"), "cannot be read"),
    "no gzip": (_file("a.jsonl.gz", b"something else"), "cannot be read"),
    "a missing column": (_parquet(query=["a"], text=["b"]), "must have one column 'item'"),
    "a missing key": (_file("a.jsonl", b'{"query": "a"}\n'), "must have one column 'item'"),
    "numbers": (_parquet(query=["a"], item=[1.5]), "column 'item' of"),
    "two formats": (_mixed, "either Parquet or JSON Lines"),
    "two names": (
        _parquet(query=["a"], item=["b"], error=["c"], input_error=["d"]),
        "two columns of the output would be called",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_a_job_ends_at_once(make, message, model_directory, tmp_path):
    assert message in refused(model_directory, tmp_path, make)


def test_files_that_do_not_go_together(model_directory, tmp_path):
    rows = {"query": ["a"], "item": ["b"]}
    pq.write_table(pa.table(rows | {"n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(rows | {"n": ["x"]}), tmp_path / "b.parquet")
    assert "do not go together" in refused(model_directory, tmp_path, lambda directory: directory)
