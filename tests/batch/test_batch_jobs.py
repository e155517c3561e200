"""Whole jobs on one machine: their output against rows scored without Ray, and against other replicas and blocks.

If one of these fails, rows of the lake are lost, doubled or changed, or a job does not continue where it ended.
"""

import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batch_lakes import assert_same_rows, lake, read_output, request, write_lake
from isoprefill.batch import job_files
from isoprefill.batch.block_scoring import make_scorer
from isoprefill.batch.columns import InputColumns
from isoprefill.batch.job import run_job
from isoprefill.batch.manifest import OtherJobError
from isoprefill.batch.ray_session import RaySettings

pytest_plugins = ["batch_fixtures"]

pytestmark = pytest.mark.usefixtures("local_ray")
ROWS = 6_000


@pytest.fixture(scope="module")
def table():
    """A third of the rows has one query; items are null, empty or too long here and there."""
    rows = lake(ROWS, 60, hot=0.3)
    items = rows["item"].to_pylist()
    items[17], items[1_234], items[5_000] = None, "", "x" * 70
    queries = rows["query"].to_pylist()
    queries[40] = None
    rows = rows.set_column(1, "query", [queries]).set_column(2, "item", [items])
    return rows.append_column("score", pa.array(np.arange(ROWS) * 0.5))


@pytest.fixture(scope="module")
def lake_directory(table, tmp_path_factory):
    return write_lake(table, tmp_path_factory.mktemp("lake"), files=3, row_group=700)


@pytest.fixture(scope="module")
def finished(lake_directory, model_directory, tmp_path_factory):
    """The output and the summary of one job."""
    output = tmp_path_factory.mktemp("out") / "scores"
    summary = run_job(request(lake_directory, output, model_directory, block_items=900))
    return output, summary


def expected(table, model_directory):
    """The output by its documentation: sorted by a hash of the query, every row scored by the engine alone."""

    def place(query):
        text = "\0None" if query is None else query
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    order = sorted(range(table.num_rows), key=lambda row: place(table["query"][row].as_py()))
    table = table.take(order)
    scorer = make_scorer(request("", "o", model_directory).scoring, label_column=False)
    queries, items = table["query"].to_pylist(), table["item"].to_pylist()
    found = scorer.score(queries, items)
    good = np.asarray([error is None for error in found.errors])
    table = table.rename_columns(["id", "query", "item", "input_score"])
    for name, column in (
        ("score", pa.array(found.scores[:, 0], mask=~good)),
        ("num_tokens", pa.array(found.num_tokens, mask=~good)),
        ("error", pa.array(found.errors, pa.string())),
    ):
        table = table.append_column(name, column)
    return table.combine_chunks()


def test_every_row_comes_out_with_its_own_score(finished, table, model_directory):
    output, summary = finished
    assert_same_rows(read_output(output), expected(table, model_directory))
    assert (summary.counts.rows, summary.counts.items, summary.counts.errors) == (ROWS, ROWS, 4)
    assert summary.items_begun_again == 0


def test_bad_rows_have_codes(finished):
    output, _ = finished
    found = read_output(output)
    bad = found.filter(pc.is_valid(found["error"])).sort_by("id")
    assert bad.select(["id", "error"]).to_pylist() == [
        {"id": 17, "error": "missing_items"},
        {"id": 40, "error": "missing_query"},
        {"id": 1_234, "error": "empty_item"},
        {"id": 5_000, "error": "context_length_exceeded"},
    ]
    assert bad["score"].null_count == bad["num_tokens"].null_count == 4


def test_a_query_is_computed_once_where_it_fits(finished):
    """59 queries whole and one cut into slices of a block: not for each of their items."""
    _, summary = finished
    assert summary.query_share < 0.03


@pytest.mark.parametrize(("replicas", "block_items"), [(2, 250), (1, None), (2, 100_000)])
def test_replicas_and_blocks_change_nothing(
    replicas,
    block_items,
    finished,
    lake_directory,
    model_directory,
    tmp_path,
):
    changed = request(
        lake_directory,
        tmp_path / "out",
        model_directory,
        block_items=block_items,
        ray=RaySettings(replicas=replicas),
    )
    summary = run_job(changed)
    assert_same_rows(read_output(tmp_path / "out"), read_output(finished[0]))
    assert summary.blocks != finished[1].blocks


def test_a_finished_job_does_nothing_again(finished, lake_directory, model_directory):
    output, summary = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    again = run_job(request(lake_directory, output, model_directory, block_items=900))
    assert again == summary
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_what_a_job_left_that_was_killed_at_its_very_end_is_removed(
    finished, lake_directory, model_directory
):
    """The shuffle is as large as the input; after the summary nothing else would remove it."""
    output, summary = finished
    left = [output / name for name in (job_files.SHUFFLE, job_files.ATTEMPTS)]
    for directory in left:
        directory.mkdir()
        (directory / "file").write_text("x")
    assert run_job(request(lake_directory, output, model_directory, block_items=900)) == summary
    assert not any(directory.exists() for directory in left)


def test_it_leaves_nothing_behind_that_it_does_not_need(finished):
    output, summary = finished
    names = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    parts = [f"part-{number:06d}.parquet" for number in range(summary.blocks)]
    assert names == [job_files.MANIFEST, job_files.PLAN, job_files.SUMMARY, *parts]


def test_readers_of_lakes_read_the_directory(finished):
    import pyarrow.dataset as ds

    assert ds.dataset(finished[0], format="parquet").count_rows() == ROWS


def test_another_job_is_refused(finished, lake_directory, model_directory):
    output, _ = finished
    with pytest.raises(OtherJobError, match="its deduplicate is False, and now it is True"):
        run_job(request(lake_directory, output, model_directory, deduplicate=True))
    swapped = InputColumns(query="item", item="query")
    with pytest.raises(OtherJobError, match="its columns is"):
        run_job(request(lake_directory, output, model_directory, columns=swapped))


def test_a_directory_of_something_else_is_refused(lake_directory, model_directory, tmp_path):
    (tmp_path / "precious.txt").write_text("kept")
    with pytest.raises(OtherJobError, match="is not empty, and holds no job"):
        run_job(request(lake_directory, tmp_path, model_directory))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


class StoppedError(RuntimeError):
    """What a test raises in the middle of a job."""


def test_only_missing_blocks_are_scored(finished, lake_directory, model_directory, tmp_path):
    """The driver ends in the middle, again and again: what is there is not computed again."""
    asked = request(lake_directory, tmp_path / "out", model_directory, block_items=300)
    most = 0

    def stop(progress):
        nonlocal most
        if progress.phase == "scoring" and progress.done_now > 1_500:
            most = progress.done
            raise StoppedError

    runs = 0
    while True:
        runs += 1
        assert runs < 10
        try:
            summary = run_job(asked, stop)
        except StoppedError:
            continue
        break
    assert runs >= 3
    assert most > 3_000
    assert_same_rows(read_output(tmp_path / "out"), read_output(finished[0]))
    assert summary.items_now < 2_500
    assert summary.items_begun_again <= (runs - 1) * 300


def test_equal_items_are_computed_once(lake_directory, finished, model_directory, tmp_path):
    """64 different items at most for each query, however many rows there are."""
    asked = request(
        lake_directory, tmp_path / "out", model_directory, deduplicate=True, block_items=300
    )
    summary = run_job(asked)
    assert summary.counts.items_computed <= 60 * 64 + 10
    by_id, plain = (read_output(one).sort_by("id") for one in (tmp_path / "out", finished[0]))
    assert_same_rows(by_id.combine_chunks(), plain.combine_chunks())


def test_labels_have_columns(lake_directory, model_directory, tmp_path):
    asked = request(
        lake_directory, tmp_path / "out", model_directory, labels=("x", "y"), softmax=True
    )
    run_job(asked)
    found = read_output(tmp_path / "out")
    assert found.column_names[-4:] == ["score_x", "score_y", "num_tokens", "error"]
    assert "score" in found.column_names  # the input's, whose name is free
    good = found.filter(pc.is_null(found["error"]))
    total = pc.add(good["score_x"], good["score_y"]).to_numpy()
    np.testing.assert_allclose(total, 1.0)


def test_an_error_of_the_model_ends_the_job(lake_directory, model_directory, tmp_path):
    """It is found in an actor, and must reach the caller as what it is."""
    asked = request(lake_directory, tmp_path / "out", model_directory, labels=("x", ""))
    with pytest.raises(ValueError, match=r"labels\[1\] must have at least 1 token, got 0"):
        run_job(asked)


def test_a_changed_input_is_refused(table, model_directory, tmp_path):
    where = write_lake(table.slice(0, 500), tmp_path / "lake")
    asked = request(where, tmp_path / "out", model_directory)
    run_job(asked)
    write_lake(table.slice(1, 500), where)
    with pytest.raises(OtherJobError, match=r"0\.parquet has changed since the job"):
        run_job(dataclasses.replace(asked))
