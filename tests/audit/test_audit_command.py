"""The command `isoprefill audit`: its arguments, its exit statuses and the reports that it writes and reads."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from audited_servers import SHORT, audit, small_directory, stub, torch_backend
from command_line import Done, run
from isoprefill.audit import AuditSettings, texts
from isoprefill.audit.analysis import UnreadableResultError, read_result, side_by_side_markdown
from isoprefill.audit.json_report import to_json
from isoprefill.audit.terminal_report import print_side_by_side
from isoprefill.cli import audit as command
from isoprefill_torch.server import Backend, create_app
from local_server import serving


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return small_directory(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def backend(directory) -> Backend:
    return torch_backend(directory)


def run_command(*arguments: str) -> Done:
    return run(command, *arguments)


@pytest.fixture(scope="module")
def command_run(backend, tmp_path_factory):
    """One run of the command on the leaky back end, with all that it can write."""
    directory = tmp_path_factory.mktemp("audit")
    leaky = dataclasses.replace(backend, method="leaky-first-item")
    with serving(create_app(leaky)) as url, serving(create_app(backend)) as other:
        done = run_command(
            f"--server-url={url}",
            f"--compare-url={other}",
            "--max-items=20",
            "--max-words=100",
            f"--output={directory / 'report.json'}",
            f"--markdown={directory / 'report.md'}",
            f"--heat-map={directory / 'influence.png'}",
        )
    return done, directory


def test_the_command_reports_and_exits_with_the_verdict(command_run):
    done, directory = command_run
    assert done.status == 3, done.stderr
    assert done.stdout == (directory / "report.md").read_text()
    assert done.stdout.startswith("# Isolation audit: PARTIAL")
    assert (directory / "influence.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_is_what_its_schema_says(command_run):
    _, directory = command_run
    report = json.loads((directory / "report.json").read_text())
    schema = json.loads(
        resources.files("isoprefill.audit").joinpath("report.schema.json").read_text()
    )
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**report, "summary": {"conclusion": "FINE"}}, schema)


def test_the_report_holds_what_the_script_writes(command_run):
    """Tools made for the files of test_pytorch_isolation.py must be able to read ours."""
    _, directory = command_run
    report = json.loads((directory / "report.json").read_text())
    tests = {test["name"]: test for test in report["tests"]}
    for name, keys in {
        "order_sensitivity": {"scores_abc", "scores_cba", "diffs", "max_diff", "threshold"},
        "content_contamination": {
            "scores_neutral",
            "scores_contaminated",
            "paris_diff",
            "threshold",
        },
        "scaling_contamination": {"results_by_prefix_count", "score_variance", "threshold"},
    }.items():
        assert keys <= tests[name]["details"].keys()
        assert tests[name]["passed"] is True
        assert tests[name]["has_isolation"] is False
    order = tests["order_sensitivity"]["details"]
    for item, diff in order["diffs"].items():
        assert abs(order["scores_abc"][item] - order["scores_cba"][item]) == diff
    assert report["summary"]["conclusion"] == "PARTIAL"
    assert report["summary"]["all_tests_show_isolation"] is False
    assert report["server_url"].startswith("http://127.0.0.1:")


SCRIPT_RESULT = {
    "server_url": "http://localhost:30000",
    "tests": [
        {
            "name": "order_sensitivity",
            "passed": True,
            "has_isolation": False,
            "details": {"max_diff": 0.25, "threshold": 0.001},
        },
        {"name": "test_broken", "passed": False, "has_isolation": None, "details": {"error": "x"}},
    ],
    "summary": {"conclusion": "NO_ISOLATION"},
}


def test_stored_results_are_shown_side_by_side(command_run, tmp_path):
    _, directory = command_run
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT_RESULT))
    done = run_command("--analyze", str(directory / "report.json"), str(script))
    assert done.status == 0, done.stderr
    rows = {
        cells[0]: cells[1:]
        for line in done.stdout.splitlines()
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }
    assert rows["test"] == ["report", "script"]
    assert rows["order_sensitivity"][0].startswith("leak (")
    assert rows["order_sensitivity"][1] == "leak (0.25)"
    assert rows["test_broken"] == ["", "failed"]
    assert rows["**conclusion**"] == ["**PARTIAL**", "**NO_ISOLATION**"]
    for width in (40, 80):
        written = io.StringIO()
        print_side_by_side([directory / "report.json", script], Console(file=written, width=width))
        lines = written.getvalue().splitlines()
        assert "|" not in written.getvalue()
        assert max(map(len, lines)) <= width
        if width == 40:
            assert "conclusion: report PARTIAL, script" in " ".join(lines)
            continue
        column = lines[0].index("script")  # the columns are aligned
        verdicts = {line.split()[0]: line[column:].strip() for line in lines if line.strip()}
        assert verdicts["order_sensitivity"] == "leak (0.25)"
        assert verdicts["conclusion"] == "NO_ISOLATION"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", 'has no list "tests"'),
        ('{"tests": [{}]}', 'has a test without a "name"'),
        (None, "cannot read"),
    ],
)
def test_a_file_without_results_is_named(tmp_path, content, message):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UnreadableResultError, match=rf"result\.json.* {message}|{message}"):
        read_result(path)


def test_markdown_and_json_agree(command_run):
    _, directory = command_run
    report = json.loads((directory / "report.json").read_text())
    page = (directory / "report.md").read_text()
    for test in report["tests"]:
        assert test["name"] in page
    assert (
        side_by_side_markdown([Path(directory / "report.json")]).count("\n")
        == len(report["tests"]) + 5
    )


def test_json_is_strict(backend):
    """NaN and infinity are no JSON, and an effect on a vanished probability must stay a number."""
    report = audit(create_app(backend), settings=SHORT)
    json.dumps(to_json(report), allow_nan=False)


def test_a_server_that_refuses_what_would_tell_is_not_cleared(directory, tmp_path):
    """And there is nothing to draw."""

    def refuses(query, items):
        return query == texts.PLACE_QUERY and len(items) > 1

    with serving(stub(refuses)) as url:
        done = run_command(
            f"--server-url={url}",
            "--labels=A",
            f"--tokenizer={directory}",
            f"--heat-map={tmp_path / 'influence.png'}",
        )
    assert done.status == 5, done.stderr
    assert "the server refused the input" in done.stdout
    assert "audit: no heat map: the server refused" in done.stderr
    assert not (tmp_path / "influence.png").exists()


def test_an_unreachable_server_has_an_exit_status_of_its_own():
    # With nowhere to write its cache matplotlib would add two lines; it is loaded for heat maps only.
    done = subprocess.run(
        [sys.executable, "-m", "isoprefill", "audit", "--server-url=http://127.0.0.1:9"],
        env=os.environ | {"MPLCONFIGDIR": "/proc/none"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"repeats": 1}, "repeats must be between 2 and 100, got 1"),
        ({"compare_tolerance": 11.0}, "compare-tolerance must be above 0 and at most 10, got 11"),
        ({"tolerance": 0.0}, "tolerance must be above 0 and at most 1, got 0"),
        ({"max_items": 1}, "max-items must be between 10 and 10000, got 1"),
        ({"delimiter_token_id": -1}, "delimiter-token-id must be at least 0, got -1"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        AuditSettings(**values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the server with --server-url"),
        (["--server-url=ftp://x"], "server-url must be http"),
        (["--server-url=http://localhost:abc"], "got 'http://localhost:abc': Invalid port: 'abc'"),
        (["--server-url=http://localhost:65536"], "server-url must be http"),
        (["--server-url=http://[::1"], "server-url must be http"),
        (["--server-url=http://x", "--api-key-file=/nonexistent"], "cannot read the API key"),
        (["--server-url=http://x", "--labels= yes"], "--labels needs --tokenizer"),
        (
            ["--server-url=http://x", "--label-token-ids=1,b"],
            "--label-token-ids must be integers of at least 0, separated by commas, got '1,b'",
        ),
        (["--server-url=http://x", "--labels= a", "--label-token-ids=1"], "one of --labels and"),
        (["--analyze"], "--analyze needs the files"),
        (["stray", "--server-url=http://x"], "unexpected argument 'stray'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    done = run_command(*arguments)
    assert done.status == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_label_of_two_tokens_is_refused(directory):
    done = run_command("--server-url=http://x", "--labels=AB", f"--tokenizer={directory}")
    assert done.status == 2
    assert "label 'AB' must be a single token, but is 2" in done.stderr
