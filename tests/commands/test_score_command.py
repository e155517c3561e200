"""The main job as a user runs it: what it prints, and what it says about bad input."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import command_line
import isoprefill
from byte_level_tokenizer import byte_tokenizer
from huggingface_directory import save_directory
from isoprefill.cli import score
from isoprefill.execution.engine_settings import EngineSettings
from small_models import random_classifier, random_model

LOADED: dict[object, object] = {}  # engines, by their settings
COMMAND = [sys.executable, "-m", "isoprefill", "score"]
FRANCE = ["--query", "The capital of France is"]
CITIES = [" Paris", " London", " Berlin"]
LIKELIHOODS = [-0.2581, -4.3844, -6.9207]
DELIMITER_FLAGS = ["--delimiter-token-id", "--delimiter-id"]  # two names of one


@pytest.fixture(autouse=True)
def each_model_is_loaded_once(monkeypatch):
    load = EngineSettings.load

    def load_once(settings):
        # The command gives the algorithm with each request.
        one = dataclasses.replace(settings, algorithm="auto")
        if one not in LOADED:
            LOADED[one] = load(one)
        engine = LOADED[one]
        engine.clear_prefix_cache()
        return engine

    monkeypatch.setattr(EngineSettings, "load", load_once)


def run(*arguments) -> command_line.Done:
    """Runs the command in this process."""
    return command_line.run(score, *arguments)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Flags of a model of one layer, for what does not depend on the model."""
    model = random_model("llama", num_hidden_layers=1)
    return ["--model", str(save_directory(model, tmp_path_factory.mktemp("small")))]


def start(*arguments, cwd=None) -> subprocess.CompletedProcess:
    """Runs the command as a user does."""
    # The tests' own path, so that the command also finds its packages when it is started in another directory.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": path}
    environment.pop("BUILD_WORKING_DIRECTORY", None)
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, cwd=cwd, capture_output=True, text=True
    )


def items(*texts):
    return [argument for text in texts for argument in ("--item", text)]


def test_rows_are_ranked():
    done = start(*FRANCE, *items(*CITIES[::-1]))
    assert done.returncode == 0, done.stderr
    # On a slow machine there is a line of progress every ten seconds.
    log = [line for line in done.stderr.splitlines() if not re.fullmatch(r"score: .* s", line)]
    assert not log, "a log beside the rows"
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["rank", "index", "item", "score", "mean", "probability", "num_tokens"]
    assert [line[:3] for line in lines[1:]] == [
        ["1", "2", " Paris"],
        ["2", "1", " London"],
        ["3", "0", " Berlin"],
    ]
    np.testing.assert_allclose([float(line[3]) for line in lines[1:]], LIKELIHOODS, atol=1e-3)


def test_the_log_says_which_algorithm_was_chosen_and_why(small):
    done = start(*small, *FRANCE, *items(*CITIES), "--verbosity=0")
    assert done.returncode == 0, done.stderr
    assert "packed, because" in done.stderr


def test_json_is_one_object_in_input_order_and_nothing_else():
    done = run(*FRANCE, *items(" London", " Paris", " Berlin"), "--json")
    assert done.status == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["model"], report["algorithm"], report["isolation"]) == (
        "smollm2-135m",
        "packed",
        "isolated",
    )
    assert [result["index"] for result in report["results"]] == [0, 1, 2]
    assert [result["item"] for result in report["results"]] == [" London", " Paris", " Berlin"]
    assert [result["rank"] for result in report["results"]] == [2, 1, 3]
    scores = np.array([result["score"] for result in report["results"]])
    np.testing.assert_allclose(scores, [LIKELIHOODS[1], LIKELIHOODS[0], LIKELIHOODS[2]], atol=1e-3)
    np.testing.assert_allclose([r["probability"] for r in report["results"]], np.exp(scores))
    assert report["usage"] == {"prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 8}


def test_files_and_labels(small, tmp_path, monkeypatch):
    """A byte order mark and Windows line ends belong to the file and not to the text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "query.txt").write_text("The capital of France is\n")
    (tmp_path / "items.txt").write_bytes(b"\xef\xbb\xbf Paris\r\n London\r\n")
    (tmp_path / "items.jsonl").write_text('{"item": " Paris"}\n" London"\n')
    reports = []
    for name in ("items.txt", "items.jsonl"):
        flags = [
            *small,
            "--query-file",
            "query.txt",
            "--items-file",
            name,
            "--labels",
            ".",
            "--labels",
            ",",
            "--json",
        ]
        done = run(*flags)
        assert done.status == 0, done.stderr
        reports.append(json.loads(done.stdout)["results"])
    assert reports[0] == reports[1]
    for result in reports[0]:
        assert len(result["scores"]) == 2
        # In the order of the scores: a reader of the file has no flags.
        assert result["labels"] == list(".,")
        assert result["probability"] == result["scores"][0]
        assert 0 < sum(result["scores"]) < 1
    normalised = json.loads(run(*flags, "--softmax").stdout)["results"]
    assert [sum(result["scores"]) for result in normalised] == pytest.approx([1.0, 1.0])


def test_labels_of_several_tokens():
    """What a label scores is what its words score as an item: they continue query + item."""
    labels = [" and the largest city", " and"]
    flags = [argument for label in labels for argument in ("--labels", label)]
    (row,) = json.loads(run(*FRANCE, *items(" Paris"), *flags, "--json").stdout)["results"]
    query = ["--query", FRANCE[1] + " Paris"]
    alone = json.loads(run(*query, *items(*labels), "--json").stdout)["results"]
    likelihoods = [one["probability"] for one in sorted(alone, key=lambda one: one["index"])]
    assert row["scores"] == pytest.approx(likelihoods, rel=1e-3)
    assert likelihoods[0] < likelihoods[1]


def test_serial_and_packed_print_the_same_scores():
    packed, serial = (
        json.loads(run(*FRANCE, *items(*CITIES), "--json", "--algorithm", algorithm).stdout)[
            "results"
        ]
        for algorithm in ("packed", "serial")
    )
    for one, other in zip(packed, serial, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_every_option_reaches_the_engine(small):
    """The second run differs in what must not matter, and in the temperature: odds become their root."""
    labels = ["--labels", ",", "--labels", "b", "--softmax", "--json"]
    delimiters = [["--delimiter", "prefix_first", flag, "0"] for flag in DELIMITER_FLAGS]
    options = ["--algorithm", "prefill_extend", "--mesh", "data=1", "--prefix-cache-bytes", "0"]
    plain, other = (
        run(*small, *FRANCE, *items(*CITIES), *labels, *delimiter, *more)
        for delimiter, more in zip(
            delimiters,
            ([], [*options, "--temperature", "2", "--tokenization", "joint"]),
            strict=True,
        )
    )
    reports = [json.loads(done.stdout) for done in (plain, other)]
    assert [report["algorithm"] for report in reports] == ["packed", "prefill_extend"]
    for one, root in zip(*(report["results"] for report in reports), strict=True):
        odds, root_odds = (r["scores"][0] / r["scores"][1] for r in (one, root))
        assert abs(odds - 1) > 0.1
        assert root_odds == pytest.approx(odds**0.5, rel=1e-3)


def test_square_brackets_in_an_item_are_printed_as_they_are():
    done = run(*FRANCE, *items(" [red]Paris[/red]"), "--format=table")
    assert "[red]Paris[/red]" in done.stdout


def test_square_brackets_in_labels_and_the_models_name_are_printed_as_they_are(tmp_path):
    labels = ["[i]", "[/b]", ":cat:"]
    directory = save_directory(random_model("llama", num_hidden_layers=1), tmp_path / "[i]model")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(labels)
    tokenizer.save(str(directory / "tokenizer.json"))
    done = run(
        *("--model", str(directory), "--query", "a", *items(" b")),
        *(argument for label in labels for argument in ("--labels", label)),
        "--format=table",
    )
    assert done.status == 0, done.stderr
    header, *_, footer = done.stdout.splitlines()
    assert header.split() == [
        "rank",
        "index",
        "item",
        "P('[i]')",
        "P('[/b]')",
        "P(':cat:')",
        "tokens",
    ]
    assert footer.startswith("[i]model, ")


BAD_INPUT = {
    "no query": (items(" a"), "exactly one of --query and --query-file"),
    "empty query": (["--query", "", *items(" a")], "the query is empty"),
    "no items": (FRANCE, "no items: give them with --item or --items-file"),
    "empty item": ([*FRANCE, *items(" a", "")], "--item 2: the item is empty"),
    "no such file": (
        [*FRANCE, "--items-file", "absent.txt"],
        "cannot read absent.txt: No such file",
    ),
    "blank line": ([*FRANCE, "--items-file", "blank.txt"], "blank.txt:2: the item is empty"),
    "empty file": ([*FRANCE, "--items-file", "empty.txt"], "empty.txt contains no items"),
    "deep JSON": ([*FRANCE, "--items-file", "deep.jsonl"], "deep.jsonl:1: not JSON"),
    "no JSON": ([*FRANCE, "--items-file", "bad.jsonl"], "bad.jsonl:1: not JSON"),
    "no item key": (
        [*FRANCE, "--items-file", "key.jsonl"],
        "key.jsonl:1: an object must have the key \"item\", got the keys 'text'",
    ),
    "not UTF-8": ([*FRANCE, "--items-file", "latin.txt"], "latin.txt is not UTF-8 text: byte 1"),
    "empty label": (
        [*FRANCE, *items(" a"), "--labels", " b", "--labels", ""],
        "labels[1] must have at least 1 token, got 0",
    ),
    "softmax alone": (
        [*FRANCE, *items(" a"), "--softmax"],
        "--softmax needs --labels, or a classification model",
    ),
    "temperature alone": (
        [*FRANCE, *items(" a"), "--temperature", "2"],
        "--temperature needs --softmax",
    ),
    "mesh": (
        [*FRANCE, *items(" a"), "--mesh", "4"],
        "mesh must be like 'data=2,tensor=4', got '4'",
    ),
    "delimiter without id": (
        [*FRANCE, *items(" a"), "--delimiter", "hidden"],
        "delimiter_id must be a token id with delimiter 'hidden', got None",
    ),
    "delimiter for nothing": (
        [*FRANCE, *items(" a"), "--delimiter-token-id", "0"],
        "--delimiter-token-id needs --delimiter hidden or prefix_first",
    ),
    "no such model": ([*FRANCE, *items(" a"), "--model", "gpt-9"], "smollm2-135m"),
    "not in the Hub's cache": (
        [*FRANCE, *items(" a"), "--model", "some-org/absent@v1"],
        "fetch it with `hf download some-org/absent --revision v1`",
    ),
    "no such adapter": (
        [*FRANCE, *items(" a"), "--adapter", "absent"],
        "adapter 'absent' does not exist: no such directory",
    ),
    "stray argument": ([*FRANCE, *items(" a"), "b"], "unexpected argument 'b'"),
    "too long": (
        [*FRANCE, *items(" a" * 8200)],
        "--item 1: query and the item must have at most 8192 tokens together",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line_and_a_status(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # On a slow machine a line of progress would come first.
    monkeypatch.setattr("isoprefill.cli.progress.LINE_S", 3600)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    (tmp_path / "blank.txt").write_text(" a\n\n b\n")
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "key.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "latin.txt").write_bytes(b" \xe9t\xe9\n")
    done = run(*arguments)
    assert done.status == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not done.stdout


def test_control_characters_cannot_forge_rows():
    done = run(*FRANCE, *items(" Paris\n   1   Rome"), "--format=table")
    assert len(done.stdout.splitlines()) == 3
    assert "Paris\\n" in done.stdout


def test_help_lists_the_flags():
    done = start("--help")
    assert done.returncode == 0
    assert "--items-file" in done.stdout
    assert "Scores items against a query" in done.stdout


def test_unknown_flag_is_named():
    done = start(*FRANCE, "--itemz", "a")
    assert done.returncode == 2
    assert "itemz" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_flag_of_a_wrong_value_is_named():
    done = start(*FRANCE, "--item", "a", "--algorithm", "fast")
    assert done.returncode == 2
    assert "--algorithm must be one of auto, serial, packed," in done.stderr
    assert done.stderr.endswith("got 'fast'\n")
    assert len(done.stderr.splitlines()) == 1


def test_usage_lists_the_commands():
    done = subprocess.run([*COMMAND[:-1], "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "score" in done.stdout
    done = subprocess.run([*COMMAND[:-1], "rank"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown command 'rank'" in done.stderr


def test_the_package_is_the_command_and_tells_its_version():
    done = subprocess.run(
        [sys.executable, "-m", "isoprefill", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"isoprefill {isoprefill.__version__}\n"


def test_importing_the_package_does_not_import_jax():
    """The server's front end imports isoprefill, and must not touch the device."""
    names = "i.Usage, i.ScoreResult, i.RequestError, i.MissingLogprobError"
    code = f"import sys, isoprefill as i; {names}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        isoprefill.missing  # noqa: B018
    assert "ScoringEngine" in dir(isoprefill)
    assert pathlib.Path(isoprefill.__file__).name == "__init__.py"


def test_a_classification_model_prints_its_classes(tmp_path):
    """Logits by name, or probabilities; ranked by the relevant class. Labels are refused in a line that says why."""
    names = {0: "off topic", 1: "on topic"}
    model = random_classifier("qwen3", num_labels=2, id2label=names)
    save_directory(model, tmp_path)
    flags = ["--model", str(tmp_path), *FRANCE, *items(*CITIES)]
    report = json.loads(run(*flags, "--json").stdout)
    assert report["classes"] == report["results"][0]["classes"] == list(names.values())
    logits = np.array([result["scores"] for result in report["results"]])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for result, expected in zip(report["results"], probabilities[:, 1], strict=True):
        assert result["probability"] == pytest.approx(expected)
        assert result["rank"] == 1 + (probabilities[:, 1] > expected).sum()
    lines = run(*flags, "--softmax").stdout.splitlines()
    row = dict(zip(lines[0].split("\t"), lines[1].split("\t"), strict=True))
    best = probabilities[np.argmax(probabilities[:, 1])]
    numbers = [float(row[f"P({name!r})"]) for name in names.values()]
    np.testing.assert_allclose(numbers, best, rtol=1e-2)
    refused = run(*flags, "--labels", "a")
    assert refused.status == 2
    assert "--labels needs a language-model head" in refused.stderr
    assert refused.stderr.count("\n") == 1
