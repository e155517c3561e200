"""`score_dataset` in a pipeline of Ray Data gives the scores of a job, and the command says in one line what is wrong.

If one of these fails, a pipeline has other numbers than the command, or a user sees a traceback.
"""

import json
import subprocess
import sys

import pyarrow as pa
import pytest
import ray.data

import isoprefill.batch
from batch_lakes import lake, read_output, request, write_lake
from isoprefill.batch.job import run_job
from isoprefill.batch.scoring_settings import ScoringSettings

pytest_plugins = ["batch_fixtures"]


def test_a_pipeline_has_the_scores_of_a_job(local_ray, model_directory, tmp_path):
    table = lake(900, 15)
    scoring = ScoringSettings(model=str(model_directory), threads=1)
    ds = ray.data.from_arrow([table.slice(0, 400), table.slice(400)])
    ds = isoprefill.batch.score_dataset(ds, scoring=scoring, batch_items=128)
    rows = pa.Table.from_pandas(ds.to_pandas(), preserve_index=False).sort_by("id")
    run_job(request(write_lake(table, tmp_path / "lake"), tmp_path / "out", model_directory))
    expected = read_output(tmp_path / "out").sort_by("id")
    assert rows.column_names == expected.column_names
    assert rows["id"].to_pylist() == list(range(900))
    assert rows["score"].to_numpy().tobytes() == expected["score"].to_numpy().tobytes()
    assert rows["num_tokens"].to_pylist() == expected["num_tokens"].to_pylist()


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "isoprefill", "batch", *map(str, arguments)],
        text=True,
        capture_output=True,
    )


def test_the_command(model_directory, tmp_path):
    """It starts Ray itself, shows progress as JSON, and prints a summary."""
    where = write_lake(lake(500, 10), tmp_path / "lake")
    flags = (f"--input={where}", f"--output={tmp_path / 'out'}", f"--model={model_directory}")
    done = run(*flags, "--log-format=json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["event"] == "summary"
    assert (summary["rows"], summary["items"], summary["errors"]) == (500, 500, 0)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {one["phase"] for one in events} == {"shuffling", "scoring"}
    last = events[-1]
    assert (last["done"], last["total"], last["errors"], last["seconds_left"]) == (500, 500, 0, 0)
    again = run(*flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("500 rows, 500 items, 0 errors")
    other = run(*flags, "--item-first")
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr.count("\n") == 1
    assert "holds another job: its item_first is False, and now it is True" in other.stderr


WRONG = {
    "no input": ([], "give the input with --input"),
    "no output": (["--input=x.parquet"], "give a directory with --output"),
    "no such flag": (["--inputs=x"], "Unknown command line flag 'inputs'"),
    "no such file": (["--input=/nowhere.parquet", "--output=o"], "/nowhere.parquet does not exist"),
    "no such scheme": (["--input=xy://a.parquet", "--output=o"], "xy://a.parquet cannot be opened"),
    "no replicas": (["--input=x", "--output=o", "--replicas=0"], "--replicas=0"),
    "two kinds of labels": (
        ["--input=x", "--output=o", "--labels=a", "--label-column=b"],
        "either labels or label-column",
    ),
    "temperature": (["--input=x", "--output=o", "--temperature=2"], "temperature needs softmax"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_use_is_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("batch: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_no_cluster_is_one_line(model_directory, tmp_path):
    where = write_lake(lake(10, 1), tmp_path / "lake")
    done = run(
        where,
        f"--output={tmp_path / 'o'}",
        f"--model={model_directory}",
        "--ray-address=127.0.0.1:1",
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("batch: Ray at 127.0.0.1:1 cannot be used")
    assert "Traceback" not in done.stderr
