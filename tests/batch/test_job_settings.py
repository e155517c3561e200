"""What a job is told by: its manifest, the names of its columns, and the kinds of values in JSON Lines.

If one of these fails, a job continues in the output of another, two columns of the output have one name, or values of
the input come out as others.
"""

import dataclasses

import pytest

from isoprefill.batch.columns import InputColumns, output_names, score_names
from isoprefill.batch.json_values import as_kind, joined_kinds, kind_of, parse_line
from isoprefill.batch.manifest import InputFile, Manifest, OtherJobError
from isoprefill.batch.query_runs import first_places, query_runs
from isoprefill.batch.ray_session import RaySettings, parse_resources
from isoprefill.batch.scoring_settings import ScoringSettings
from isoprefill.batch.summary import Progress, Summary
from isoprefill.batch.work_counts import WorkCounts

FILES = (InputFile("a.parquet", 10, 5), InputFile("b.parquet", 20, None))
MANIFEST = Manifest(inputs=FILES, settings=ScoringSettings().lasting())


def test_a_manifest_survives_its_file():
    again = Manifest.parse(MANIFEST.text(), "place")
    again.check_same(MANIFEST, "out")
    assert again.digest == MANIFEST.digest


OTHERS = {
    "a setting": (
        {"settings": ScoringSettings(item_first=True).lasting()},
        "output out holds another job: its item_first is True, and now it is False",
    ),
    "fewer files": ({"inputs": FILES[:1]}, "it has 1 input files, and now there are 2"),
    "another file": (
        {"inputs": (InputFile("c.parquet", 10, 5), FILES[1])},
        "its input c.parquet is now a.parquet",
    ),
    "a file that grew": (
        {"inputs": (InputFile("a.parquet", 11, 5), FILES[1])},
        "input a.parquet has changed since the job in out began",
    ),
    "a file that was written again": (
        {"inputs": (InputFile("a.parquet", 10, 6), FILES[1])},
        "input a.parquet has changed since the job in out began",
    ),
}


@pytest.mark.parametrize(("changes", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_another_job_is_refused_in_one_line(changes, message):
    other = dataclasses.replace(MANIFEST, **changes)
    assert other.digest != MANIFEST.digest
    with pytest.raises(OtherJobError) as raised:
        MANIFEST.check_same(other, "out")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 1, "inputs": [[1]], "settings": {}}']
)
def test_a_damaged_manifest_is_refused(text):
    with pytest.raises(OtherJobError, match="place is not a manifest"):
        Manifest.parse(text, "place")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ScoringSettings)])
def test_what_changes_scores_is_in_the_manifest(field):
    """Or a job with another of them would continue the first one's output."""
    assert (field in ScoringSettings().lasting()) != (field in ("threads", "prefix_cache_bytes"))


BAD_SETTINGS = {
    "both kinds of items": (lambda: InputColumns(items="items"), "exactly one of item-column"),
    "no items": (lambda: InputColumns(item=None), "exactly one of item-column"),
    "one column twice": (lambda: InputColumns(query="a", item="a"), "columns must differ"),
    "labels of lists": (
        lambda: InputColumns(item=None, items="items", label="l"),
        "no meaning with items-column",
    ),
    "no replicas": (lambda: RaySettings(replicas=0), "replicas must be between 1 and 10000, got 0"),
    "resources": (lambda: parse_resources("CPU"), "must be like 'CPU=8,TPU=4', got 'CPU'"),
    "resources twice": (lambda: parse_resources("CPU=1,CPU=2"), "must be like"),
    "a label twice": (lambda: ScoringSettings(labels=("a", "a")), "labels must differ"),
    "temperature": (
        lambda: ScoringSettings(softmax=True, temperature=0.0),
        "finite and above 0, got 0.0",
    ),
    "temperature alone": (lambda: ScoringSettings(temperature=2.0), "temperature needs softmax"),
}


@pytest.mark.parametrize(("make", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_settings_that_contradict_each_other_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_of_the_input_make_way():
    assert score_names([]) == ["score"]
    ours = score_names(["yes", "no"])
    assert ours == ["score_yes", "score_no"]
    inputs = ["id", "score", "score_yes", "error"]
    assert output_names(inputs, ours) == ["id", "score", "input_score_yes", "input_error"]
    with pytest.raises(ValueError, match="two columns of the output would be called 'input_error'"):
        output_names(["error", "input_error"], ours)


KINDS = {
    "null and text": ([None, "a"], "string", [None, "a"]),
    "integers": ([1, -(1 << 63)], "integer", [1, -(1 << 63)]),
    "integers and numbers": ([1, 2.5], "number", [1.0, 2.5]),
    "integers beyond 64 bits": ([1, 1 << 70], "json", ["1", str(1 << 70)]),
    "booleans": ([True, None], "boolean", [True, None]),
    "booleans are no integers": ([True, 1], "json", ["true", "1"]),
    "text and integers": (["a", 1], "json", ["a", "1"]),
    "lists": ([[1], [2.5], None], "list of number", [[1.0], [2.5], None]),
    "empty lists": ([[], ["a"]], "list of string", [[], ["a"]]),
    "lists and text": ([["a"], "a"], "json", ['["a"]', "a"]),
    "objects": ([{"a": 1}], "json", ['{"a":1}']),
}


@pytest.mark.parametrize(("values", "kind", "made"), KINDS.values(), ids=KINDS.keys())
def test_values_of_a_column_get_one_kind(values, kind, made):
    kinds = joined_kinds({"x": kind_of(value)} for value in values)
    assert kinds == {"x": kind}
    again = [as_kind(value, kind) for value in values]
    assert again == made
    assert list(map(type, again)) == list(map(type, made))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"a": 1}', None),
        (b'{"a": ', "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[1]", "invalid_body_type"),
        (b"[" * 100_000, "invalid_json"),
    ],
)
def test_a_line_that_is_no_object_has_a_code(line, code):
    values, found = parse_line(line)
    assert found == code
    assert values == ({"a": 1} if code is None else {})


def test_runs_of_equal_queries():
    assert query_runs(["a", "a", "b", [1], [1], None, None, "a"]) == [
        (0, 2),
        (2, 3),
        (3, 5),
        (5, 7),
        (7, 8),
    ]
    assert query_runs([]) == []
    assert query_runs([1, True, 1.0]) == [(0, 1), (1, 2), (2, 3)]


def test_equal_items_have_one_first_place():
    assert first_places(["a", "b", "a", [1, 2], [1, 2], "b"]) == [0, 1, 0, 3, 3, 1]
    assert first_places([[1], [True], ["1"]]) == [0, 1, 2]


def test_a_summary_survives_its_file():
    counts = WorkCounts(10, 20, 3, 17, 40, 100, 25, 2.0, 1.5)
    summary = Summary(
        counts=counts,
        blocks=4,
        items_begun_again=5,
        items_now=20,
        seconds_now=4.0,
        seconds_shuffling=1.0,
        replicas=2,
    )
    assert Summary.parse(summary.text()) == summary
    assert summary.items_per_second == 5.0
    assert summary.items_per_replica_second == 10.0
    assert summary.query_share == 0.25


def test_progress_counts_what_this_run_did():
    """The rate of a run that continues another must not count what was there."""
    progress = Progress(phase="scoring", done=900, total=1000, done_now=50, errors=0, seconds=5.0)
    assert progress.rate == 10.0
    assert progress.seconds_left == 10.0
    begun = Progress(phase="scoring", done=900, total=1000, done_now=0, errors=0, seconds=0.0)
    assert begun.seconds_left is None
