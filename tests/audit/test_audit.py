"""The auditor, on real back ends and on planted faults, over HTTP on loopback.

If one of these fails, the auditor clears a server that leaks, or accuses one that does not.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from fastapi import FastAPI, Response

import flashinfer_stand_in
import planted_faults
import small_models
from isoprefill.audit import AuditSettings, Rejected, ScoreClient, ServerError, run_audit, texts
from isoprefill.audit.analysis import UnreadableResultError, read_result, side_by_side
from isoprefill.audit.comparison import compare
from isoprefill.audit.instrument import Instrument
from isoprefill.audit.json_report import to_json
from isoprefill.audit.log_scores import (
    LOG_FLOOR,
    MalformedScoresError,
    detect_scale,
    parse_scores,
    to_log,
)
from isoprefill.audit.markdown_report import to_markdown
from isoprefill.models.source import load_tokenizer
from isoprefill_torch import TorchScorer, flashinfer_cuda, load_model
from isoprefill_torch.packing import pack
from isoprefill_torch.server import Backend, create_app
from local_server import serving
from running_server import running_server

SETTINGS = AuditSettings(max_items=100, max_words=200, repeats=3)
# For what is noisy, or compiles for every length.
SHORT = AuditSettings(max_items=10, max_words=100, repeats=2)
LABELS = [65, 66, 67]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A small random model with a token for each byte."""
    model = small_models.random_model("llama", max_position_embeddings=8192)
    return small_models.save_directory(model, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def product_server(directory):
    with running_server(f"--model={directory}", "--warmup-tokens=64") as server:
        yield server


@pytest.fixture(scope="module")
def backend(directory) -> Backend:
    torch.set_num_threads(1)
    return Backend(TorchScorer(load_model(directory)), load_tokenizer(directory), "serial")


def audit(app: FastAPI, labels=None, settings=SETTINGS):
    with (
        serving(app) as url,
        contextlib.closing(ScoreClient(url, label_token_ids=labels)) as client,
    ):
        return run_audit(client, settings)


def planted(fault: type[Backend], backend: Backend) -> FastAPI:
    values = {field.name: getattr(backend, field.name) for field in dataclasses.fields(backend)}
    return create_app(fault(**values))


def leaking(report) -> set[str]:
    return {finding.name for finding in report.findings if finding.verdict == "leak"}


@pytest.mark.parametrize(
    ("method", "delimiter", "labels"),
    [
        ("serial", "none", None),
        ("extend", "prefix_first", LABELS),
        ("isolated-dense", "none", LABELS),
        ("isolated-dense", "hidden", None),
        ("flex", "prefix_first", None),
        ("flashinfer-rule", "hidden", LABELS),
    ],
)
def test_isolated_back_ends_are_cleared(backend, method, delimiter, labels):
    """A false alarm costs the auditor its credit."""
    chosen = dataclasses.replace(backend, method=method, delimiter=delimiter, delimiter_id=10)
    report = audit(create_app(chosen), labels)
    assert report.conclusion.verdict == "ISOLATED"
    assert report.conclusion.exit_code == 0
    assert report.scale == ("log" if labels is None else "probability")
    assert {finding.verdict for finding in report.findings} == {"isolated", "rejected"}
    same_length = next(one for one in report.findings if one.name == "same_length_mutation")
    assert same_length.details["same_number_of_tokens_confirmed"]


@pytest.mark.parametrize("labels", [None, LABELS], ids=["likelihood", "labels"])
def test_causal_attention_has_no_isolation(backend, labels):
    report = audit(create_app(dataclasses.replace(backend, method="causal")), labels)
    assert report.conclusion.verdict == "NO_ISOLATION"
    assert report.conclusion.exit_code == 4
    assert "plain causal attention" in report.conclusion.explanation
    pairs = {(leak.source, leak.target) for leak in report.conclusion.leaks}
    assert pairs == {(i, j) for j in range(5) for i in range(j)}
    # The one thing that causal attention does not mix are requests.
    told = {one.name for one in report.findings if one.has_isolation is not None}
    assert leaking(report) == told - {"concurrent_requests"}


@pytest.mark.parametrize("labels", [None, LABELS], ids=["likelihood", "labels"])
def test_the_published_first_item_leak_is_named(backend, labels):
    report = audit(create_app(dataclasses.replace(backend, method="leaky-first-item")), labels)
    assert report.conclusion.verdict == "PARTIAL"
    assert report.conclusion.exit_code == 3
    assert report.conclusion.explanation.startswith("Item 1 leaks into every later item")
    pairs = {(leak.source, leak.target) for leak in report.conclusion.leaks}
    assert pairs == {(0, j) for j in range(1, 5)}


@pytest.mark.parametrize(
    ("fault", "verdict", "explanation"),
    [
        (planted_faults.PositionsRunOn, "PARTIAL", "positions do not restart"),
        (planted_faults.DelimitersVisible, "PARTIAL", "items see delimiters"),
        (planted_faults.SeesItemBefore, "PARTIAL", "Some items leak into others: 1 into 2,"),
        (planted_faults.SeesAllItems, "NO_ISOLATION", "and the items after it"),
    ],
)
def test_planted_faults_are_caught_and_named(backend, fault, verdict, explanation):
    report = audit(planted(fault, backend))
    assert report.conclusion.verdict == verdict
    assert explanation in report.conclusion.explanation


def test_without_its_fault_a_planted_back_end_is_cleared(backend):
    """Else the test above could be passed by an auditor that accuses everyone."""
    assert audit(planted(planted_faults.MaskFault, backend)).conclusion.verdict == "ISOLATED"


def test_a_leak_between_concurrent_requests_is_caught(backend):
    report = audit(planted_faults.batching_app(backend.scorer))
    assert report.conclusion.verdict == "PARTIAL"
    assert leaking(report) == {"concurrent_requests"}
    assert "requests at the same time" in report.conclusion.explanation


def test_batching_without_a_leak_is_cleared(backend):
    report = audit(planted_faults.batching_app(backend.scorer, leak=False))
    assert report.conclusion.verdict == "ISOLATED"


class AskingForCausal(ScoreClient):
    """Asks our server to let items see each other."""

    def _post(self, body):
        return super()._post({**body, "isolation": "causal"})


@pytest.mark.parametrize(
    ("client_class", "labels", "verdict"),
    [
        (ScoreClient, None, "ISOLATED"),
        (ScoreClient, LABELS, "ISOLATED"),
        (AskingForCausal, None, "NO_ISOLATION"),
    ],
)
def test_our_own_server_is_isolated_unless_told_to_leak(
    product_server, client_class, labels, verdict
):
    """The product itself, with both processes and with requests that share a prefill."""
    with contextlib.closing(client_class(product_server.url, label_token_ids=labels)) as client:
        report = run_audit(client, SHORT)
    assert report.conclusion.verdict == verdict
    if verdict == "ISOLATED":
        assert max(finding.effect or 0 for finding in report.findings) < 1e-4


def test_noise_is_not_taken_for_a_leak(backend):
    report = audit(planted(planted_faults.Noisy, backend), settings=SHORT)
    assert report.conclusion.verdict == "INCONCLUSIVE"
    assert report.conclusion.exit_code == 5
    assert report.calibration.spread > 0.1


def test_a_leak_is_found_through_noise(backend):
    causal = dataclasses.replace(backend, method="causal")
    report = audit(planted(planted_faults.SlightlyNoisy, causal), settings=SHORT)
    assert report.conclusion.verdict == "NO_ISOLATION"
    assert report.calibration.spread > 0


def test_a_little_noise_does_not_hide_isolation(backend):
    report = audit(planted(planted_faults.SlightlyNoisy, backend), settings=SHORT)
    assert report.conclusion.verdict == "ISOLATED"


def test_two_servers_are_compared_item_by_item(backend):
    """Test 4 of the plan: the first item agrees, the later ones do not."""
    isolated, causal = (
        dataclasses.replace(backend, method=name) for name in ("isolated-dense", "causal")
    )
    with (
        serving(create_app(isolated)) as url,
        serving(create_app(causal)) as other,
        contextlib.closing(ScoreClient(url, label_token_ids=LABELS)) as client,
        contextlib.closing(ScoreClient(other, label_token_ids=LABELS)) as compare_to,
    ):
        same = run_audit(client, SETTINGS, compare_to=client).comparison
        report = run_audit(client, SETTINGS, compare_to=compare_to)
    assert same.agree
    assert same.max_log_diff == 0.0
    comparison = report.comparison
    assert (report.conclusion.verdict, report.exit_code) == ("ISOLATED", 6)  # of the first
    assert not comparison.agree
    assert all(item.log_diff < 1e-4 for item in comparison.items if item.position == 0)
    assert all(item.log_diff > 1e-3 for item in comparison.items if item.position > 0)
    assert "they differ" in to_markdown(report)


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "isoprefill", "audit", *arguments]
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)


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
    assert done.returncode == 3, done.stderr
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
    assert done.returncode == 0, done.stderr
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


def stub(refuses=lambda query, items: False, glitch_at: int | None = None) -> FastAPI:
    """A server whose scores follow from the item alone, but for one request if there is a glitch."""
    app, requests = FastAPI(), itertools.count(1)

    @app.post("/v1/score")
    def score(body: dict) -> Response:
        number = next(requests)
        if refuses(body["query"], body["items"]):
            return Response('{"message": "no"}', 422)
        scores = [-1.0 - len(item) - 0.5 * (number == glitch_at) for item in body["items"]]
        return Response(json.dumps({"scores": scores}))

    return app


def test_an_effect_that_does_not_come_again_is_not_taken_for_a_leak():
    report = audit(stub(glitch_at=2 * SHORT.repeats + 3), settings=SHORT)
    assert report.findings[0].verdict == "inconclusive"
    assert "was not there again" in report.findings[0].reason
    assert report.conclusion.verdict == "INCONCLUSIVE"


def test_an_effect_that_cannot_be_measured_again_is_not_taken_for_a_leak():
    """And the audit goes on: what else the server answers is still reported."""
    glitch, numbers = 2 * SHORT.repeats + 3, itertools.count(1)  # the first probe's first of two
    report = audit(stub(lambda *_: next(numbers) > glitch + 1, glitch_at=glitch), settings=SHORT)
    assert report.findings[0].verdict == "inconclusive"
    assert "could not be measured again" in report.findings[0].reason
    assert report.findings[1].verdict == "rejected"


def own(query: str, item) -> float:
    """A score that follows from query and item alone."""
    return -2 - 8 * hash_of(query, item)


def causal(query: str, items: list) -> list[float]:
    """Scores that also follow from the items before."""
    return [
        own(query, item) - 3 * hash_of(query, item, items[:place])
        for place, item in enumerate(items)
    ]


def hash_of(*values) -> float:
    """In [0, 1), from anything."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:4]) / 2**32


def num_words(query: str, items: list) -> int:
    return sum(len(str(text).split()) for text in [query, *items])


def computing(scores) -> FastAPI:
    """A server that computes its scores with a function of query and items."""
    app = FastAPI()

    @app.post("/v1/score")
    def score(body: dict) -> Response:
        computed = scores(body["query"], body["items"])
        if computed is None:
            return Response('{"message": "no"}', 500)
        return Response(json.dumps({"scores": computed}))

    return app


@pytest.mark.parametrize(
    "scores",
    [
        lambda query, items: [0.0] * len(items),
        lambda query, items: [1.0] * len(items),
        lambda query, items: [round(math.exp(score - 12), 4) for score in causal(query, items)],
    ],
    ids=["all 0", "all 1", "too small for its digits"],
)
def test_scores_that_show_nothing_clear_nobody(scores):
    """No probe can find an effect in them, whatever the items see."""
    conclusion = audit(computing(scores)).conclusion
    assert conclusion.verdict == "INCONCLUSIVE"
    assert "Scores hardly differ from item to item" in conclusion.explanation


def leaks_in_long_requests(query, items):
    if num_words(query, items) > 200:
        return causal(query, items)
    return [own(query, item) for item in items]


def leaks_after_long_queries(query, items):
    return causal(query, items) if len(query.split()) > 64 else [own(query, i) for i in items]


def leaks_in_the_middle(query, items):
    return [
        leaking_score if 10 < place < len(items) - 1 else own(query, items[place])
        for place, leaking_score in enumerate(causal(query, items))
    ]


@pytest.mark.parametrize(
    ("scores", "finder"),
    [
        (leaks_in_long_requests, "long_request"),
        (leaks_after_long_queries, "long_request"),
        (leaks_in_the_middle, "item_count"),
    ],
)
def test_a_leak_in_long_requests_only_is_caught(scores, finder):
    """As of a server that computes them in chunks, or masks within a tile."""
    report = audit(computing(scores))
    assert report.conclusion.verdict == "PARTIAL"
    assert finder in leaking(report)


def splits_at_delimiters(query, items):
    return [own(query, part) for item in items for part in item.split("<|endoftext|>")]


def breaks_at_one_delimiter_and_leaks_at_another(query, items):
    if any("<|endoftext|>" in item for item in items):
        return None
    if any("</s>" in item for item in items):
        return causal(query, items)
    return [own(query, item) for item in items]


@pytest.mark.parametrize(
    "scores", [splits_at_delimiters, breaks_at_one_delimiter_and_leaks_at_another]
)
def test_a_delimiter_that_shifts_scores_is_a_leak(scores):
    report = audit(computing(scores))
    assert leaking(report) == {"delimiter_in_item"}
    assert report.conclusion.verdict == "PARTIAL"


def test_kept_answers_do_not_hide_a_leak_between_requests():
    """The server leaks between requests at the same time, and answers from memory what it was asked before."""
    kept, in_flight = {}, []

    def scores(query, items):
        key = repr((query, items))
        if key not in kept:
            in_flight.append(key)
            time.sleep(0.05)
            kept[key] = [own(query, item) - (len(in_flight) > 1) for item in items]
            in_flight.remove(key)
        return kept[key]

    report = audit(computing(scores), settings=SHORT)
    assert leaking(report) == {"concurrent_requests"}


def breaks_on_long_lists(query, items):
    return causal(query, items) if len(items) <= 25 else None


@pytest.mark.parametrize("breaks_at", [None, 20, 8])
def test_a_server_that_breaks_keeps_its_verdict_if_it_leaked(breaks_at):
    """At long lists, at an ordinary request after a leak was found, and before anything was."""
    numbers = itertools.count(1)

    def scores(query, items):
        if breaks_at is not None and next(numbers) >= breaks_at:
            return None
        return breaks_on_long_lists(query, items)

    if breaks_at == 8:
        with pytest.raises(ServerError, match="HTTP 500"):
            audit(computing(scores), settings=SHORT)
        return
    report = audit(computing(scores))
    assert report.conclusion.verdict == ("NO_ISOLATION" if breaks_at is None else "PARTIAL")
    if breaks_at is not None:
        assert report.findings[-1].verdict == "failed"


def test_a_cleared_server_is_told_how_far_was_asked():
    report = audit(computing(lambda query, items: [own(query, item) for item in items]))
    assert "up to 100 items in a request" in report.conclusion.explanation
    assert "effects above 0.001 would have been seen" in report.conclusion.explanation


def test_what_a_server_refuses_is_recorded():
    """Long lists and special texts; what is left is judged."""

    def refuses(_, items):
        return len(items) > 50 or any("<" in item for item in items)

    findings = {one.name: one for one in audit(stub(refuses)).findings}
    assert findings["item_count"].verdict == "isolated"
    assert findings["item_count"].details["refused_counts"] == {"100": "HTTP 422: no"}
    assert findings["delimiter_in_item"].verdict == "rejected"


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
    assert done.returncode == 5, done.stderr
    assert "the server refused the input" in done.stdout
    assert "audit: no heat map: the server refused" in done.stderr
    assert not (tmp_path / "influence.png").exists()


def test_servers_with_different_numbers_of_labels_cannot_be_compared(backend):
    with (
        serving(create_app(backend)) as url,
        contextlib.closing(ScoreClient(url)) as one,
        contextlib.closing(ScoreClient(url, label_token_ids=LABELS)) as other,
        pytest.raises(ValueError, match=r"sends 1 scores for an item, .* 3"),
    ):
        compare(
            Instrument(one, repeats=2, tolerance=1e-3),
            Instrument(other, repeats=2, tolerance=1e-3),
            0.05,
        )


def test_an_unreachable_server_has_an_exit_status_of_its_own():
    # With nowhere to write its cache matplotlib would add two lines; it is loaded for heat maps only.
    done = run_command("--server-url=http://127.0.0.1:9", "--timeout=5", MPLCONFIGDIR="/proc/none")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ("oops", 500, "answered HTTP 500: oops"),
        ("oops", 200, "did not answer with JSON"),
        ("[" * 100_000, 200, "did not answer with JSON"),
        ("[]", 200, "did not answer with a JSON object"),
        ("{}", 200, "scores must be a list with an entry for each item, got NoneType"),
        ('{"scores": [-1]}', 200, "for each of 3 items, got 1"),
        ('{"scores": [-1, -1, NaN]}', 200, r"scores\[2\] must hold numbers, got nan"),
        (
            '{"scores": [-1, -1, 1' + "0" * 400 + "]}",
            200,
            r"scores\[2\] must hold numbers that fit",
        ),
        ('{"scores": [-1, -1, {}]}', 200, r"scores\[2\] must hold numbers, got missing"),
        ('{"scores": [[0.1], [0.1, 0.2], [1]]}', 200, "the same number of scores"),
        ('{"scores": [-1, 1, 3]}', 200, "got -1 to 3"),
        ('{"error": {"message": "no labels"}}', 400, "refuses an ordinary request: .*no labels"),
        ("", 307, "answered HTTP 307"),
        ('{"detail": "Not Found"}', 404, "answered HTTP 404: Not Found"),
        ('{"error": {"message": "come again"}}', 429, "answered HTTP 429: come again"),
    ],
)
def test_a_misbehaving_server_is_an_error_with_the_reason(content, status, message):
    app = FastAPI()

    @app.post("/v1/score")
    def score() -> Response:
        return Response(content, status, media_type="application/json")

    with pytest.raises(ServerError, match=message):
        audit(app)


@pytest.mark.parametrize("labels", [None, [65]])
def test_a_server_that_needs_labels_gets_the_hint_only_if_there_were_none(labels):
    app = FastAPI()

    @app.post("/v1/score")
    def score() -> Response:
        return Response('{"message": "no good"}', 400)

    with pytest.raises(ServerError, match="HTTP 400: no good") as error:
        audit(app, labels)
    assert ("score labels only" in str(error.value)) == (labels is None)


def test_a_server_that_answers_too_late_or_too_much_is_an_error(monkeypatch):
    """The auditor must not hang, and must not be filled up."""
    app = FastAPI()

    @app.post("/v1/score")
    def score() -> Response:
        time.sleep(1)
        return Response("x" * 2000)

    with serving(app) as url:
        with (
            contextlib.closing(ScoreClient(url, timeout=0.1)) as client,
            pytest.raises(ServerError, match="did not answer in time"),
        ):
            client.score("a", ["b"])
        monkeypatch.setattr("isoprefill.audit.client.MAX_RESPONSE_BYTES", 1000)
        with (
            contextlib.closing(ScoreClient(url)) as client,
            pytest.raises(ServerError, match="more than 1000 bytes"),
        ):
            client.score("a", ["b"])


@pytest.mark.parametrize("dripping", ["headers", "body"])
def test_an_answer_that_comes_byte_by_byte_ends_with_the_time_out(dripping):
    """Every byte comes in time, and the answer never."""
    answer = b'{"scores": [-1]}' + b" " * 30
    head = b"HTTP/1.1 200 OK\r\nx: " + b"y" * 30 + b"\r\ncontent-length: 46\r\n\r\n"
    at_once = 0 if dripping == "headers" else len(head)
    answer = head + answer

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(answer[:at_once])
            for place in range(at_once, len(answer)):
                connection.sendall(answer[place : place + 1])
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            contextlib.closing(ScoreClient(url, timeout=0.5)) as client,
            pytest.raises(ServerError, match=r"did not answer in time: 0\.5 seconds"),
        ):
            client.score("a", ["b"])


def test_hostile_input_that_breaks_a_server_is_reported_without_hiding_the_rest(backend):
    app, isolated = FastAPI(), create_app(backend)

    @app.middleware("http")
    async def break_on_empty_items(request, call_next):
        if b'""' in await request.body():
            return Response("Traceback", 500)
        return await call_next(request)

    app.mount("/", isolated)
    report = audit(app)
    findings = {finding.name: finding for finding in report.findings}
    assert findings["empty_item"].verdict == "failed"
    assert "Traceback" in findings["empty_item"].reason
    assert report.conclusion.verdict == "ISOLATED"


def test_token_delimiters_are_smuggled_too(backend):
    settings = dataclasses.replace(SETTINGS, delimiter_token_id=10)
    report = audit(create_app(backend), settings=settings)
    finding = next(one for one in report.findings if one.name == "delimiter_in_item")
    assert "token 10" in finding.details["diffs"]


@pytest.mark.parametrize(
    ("sent", "scale", "expected"),
    [
        ([{"score": -1.5}, {"score": -2.0}], "log", [[-1.5], [-2.0]]),
        ([-1.5, None], "log", [[-1.5], [LOG_FLOOR]]),
        ([[0.5, 1.0], [0.0, 0.25]], "probability", np.log([[0.5, 1.0], [1e-300, 0.25]])),
        ([{"scores": [0.5]}, {"scores": [1]}], "probability", [[np.log(0.5)], [0.0]]),
    ],
)
def test_scores_are_compared_in_log_space_whatever_is_sent(sent, scale, expected):
    scores = parse_scores(sent)
    assert detect_scale(scores) == scale
    expected = np.where(np.asarray(expected) < -600, LOG_FLOOR, expected)
    np.testing.assert_allclose(to_log(scores, scale), expected)


@pytest.mark.parametrize("score", [True, "0.5", {"value": 1}, []])
def test_scores_that_are_none_are_refused(score):
    with pytest.raises(MalformedScoresError):
        parse_scores([score])


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
            "must be integers of at least 0, got '1,b'",
        ),
        (["--server-url=http://x", "--labels= a", "--label-token-ids=1"], "one of --labels and"),
        (["--analyze"], "--analyze needs the files"),
        (["stray", "--server-url=http://x"], "unexpected argument 'stray'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    done = run_command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["http://me:pw@host", "http://me:pw@host:abc", "http://pw@[::1"])
def test_an_address_with_a_password_is_refused_without_being_repeated(url):
    """Reports and messages hold the address."""
    with pytest.raises(ValueError, match="must not hold a user name or a password") as error:
        ScoreClient(url)
    assert "pw" not in str(error.value)


@pytest.mark.parametrize("key", ["se\ncret", "sécret", " secret", ""])
def test_a_key_that_cannot_travel_is_refused_without_being_repeated(key):
    """Else the message of a header that cannot be sent holds it."""
    with pytest.raises(ValueError, match="the API key ") as error:
        ScoreClient("http://x", api_key=key)
    assert "cret" not in str(error.value)


def test_a_label_of_two_tokens_is_refused(directory):
    done = run_command("--server-url=http://x", "--labels=AB", f"--tokenizer={directory}")
    assert done.returncode == 2
    assert "label 'AB' must be a single token, but is 2" in done.stderr


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body must be a JSON object"),
        ({"items": ["a"]}, "query is missing"),
        ({"query": "a", "items": ["a"] * 10_001}, "at most 10000 items"),
        ({"query": "a", "items": []}, "items must be a list of at least 1 item"),
        ({"query": "a", "items": ["a", ""]}, r"items\[1\] must hold at least 1 token"),
        ({"query": "a", "items": [[300]]}, r"items\[0\] must hold token ids in \[0, 300\)"),
        ({"query": "a", "items": [[1.5]]}, r"items\[0\] must be text or token ids"),
        ({"query": "a", "items": ["a"], "label_token_ids": []}, "label_token_ids must hold"),
        ({"query": "a", "items": ["a"], "item_first": True}, "item_first is not supported"),
        ({"query": "a", "items": ["b" * 9000]}, "9001 tokens, at most 8192"),
    ],
)
def test_the_reference_server_refuses_what_it_would_misread(backend, body, message):
    import httpx

    with serving(create_app(backend)) as url:
        response = httpx.post(f"{url}/v1/score", json=body)
    assert response.status_code == 400
    with pytest.raises(Rejected, match=message):
        raise Rejected(response.json()["error"]["message"])


def test_the_reference_server_scores_as_the_model_does(backend):
    """The shapes of SGLang's answers: rows with labels, objects without; softmax over the labels."""
    with serving(create_app(backend)) as url:
        import httpx

        def ask(**fields):
            body = {"query": "abc", "items": ["de", "f"], **fields}
            return httpx.post(f"{url}/v1/score", json=body).json()

        likelihoods, labels = ask(), ask(label_token_ids=LABELS)
        softmax = ask(label_token_ids=LABELS, apply_softmax=True)
    encode = backend.tokenizer.encode
    query, items = encode("abc"), [encode("de"), encode("f")]
    expected = backend.logprobs(query, items, None)
    np.testing.assert_allclose([one["score"] for one in likelihoods["scores"]], expected)
    expected = np.exp(backend.logprobs(query, items, LABELS))
    np.testing.assert_allclose(labels["scores"], expected)
    np.testing.assert_allclose(
        softmax["scores"], expected / expected.sum(axis=1, keepdims=True), rtol=1e-6
    )
    assert likelihoods["usage"] == {"prompt_tokens": 6, "completion_tokens": 0, "total_tokens": 6}


def test_flashinfer_is_refused_without_cuda(backend):
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    with pytest.raises(ValueError, match="needs CUDA"):
        backend.scorer.logprobs([1, 2], [[3]], method="flashinfer")


def test_flashinfer_is_called_as_its_documentation_says(directory, monkeypatch):
    """With CUDA the scores must be those of its rule; here its rule stands in for its kernel."""
    scorer = TorchScorer(load_model(directory, "bfloat16"))
    monkeypatch.setitem(sys.modules, "flashinfer", flashinfer_stand_in)
    monkeypatch.setattr(flashinfer_cuda, "unavailable", lambda: None)
    query, items = [5, 6, 7], [[1, 2, 3], [4], [8, 9]]
    scores = scorer.logprobs(query, items, LABELS, method="flashinfer")
    expected = scorer.logprobs(query, items, LABELS, method="flashinfer-rule")
    np.testing.assert_allclose(scores, expected, atol=0.05)  # bfloat16
    causal = scorer.logprobs(query, items, LABELS, method="causal")
    assert np.abs(scores - causal)[1:].max() > 0.2


def test_flashinfer_refuses_what_it_cannot_do(backend, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="needs the package flashinfer-python"):
        backend.scorer.logprobs([1, 2], [[3]], method="flashinfer")
    monkeypatch.setattr(flashinfer_cuda, "unavailable", lambda: None)
    with pytest.raises(ValueError, match="needs bfloat16 weights, got float32"):
        backend.scorer.logprobs([1, 2], [[3]], method="flashinfer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "fast"}, r"method must be one of .*, got 'fast'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"method": "causal", "batch_size": 2}, "'causal' takes no batch_size, got 2"),
        ({"labels": []}, "labels must hold at least 1 token id, got 0"),
        ({"items": []}, "items must hold at least 1 item, got 0"),
        ({"items": [[1], []]}, r"items\[1\] must hold at least 1 token, got 0"),
        ({"query": [300]}, r"query must hold token ids in \[0, 300\), got 300 to 300"),
        ({"delimiter": "hidden"}, "delimiter 'hidden' needs a delimiter_id, got None"),
    ],
)
def test_the_torch_scorer_checks_its_arguments(backend, arguments, message):
    values = {"query": [1], "items": [[2]], "method": "isolated-dense", **arguments}
    with pytest.raises(ValueError, match=message):
        backend.scorer.logprobs(**values)


def test_flashinfer_gets_the_published_parameters():
    """The example of FlashInfer's own documentation: items of 3, 2 and 4 tokens."""
    packing = pack([1, 2], [[1] * 3, [1] * 2, [1] * 4], "hidden", 0)
    positions = [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4, 0]
    assert flashinfer_cuda.token_pos_in_items(packing) == positions


def test_markdown_and_json_agree(command_run):
    _, directory = command_run
    report = json.loads((directory / "report.json").read_text())
    page = (directory / "report.md").read_text()
    for test in report["tests"]:
        assert test["name"] in page
    assert side_by_side([Path(directory / "report.json")]).count("\n") == len(report["tests"]) + 5


def test_json_is_strict(backend):
    """NaN and infinity are no JSON, and an effect on a vanished probability must stay a number."""
    report = audit(create_app(backend), settings=AuditSettings(max_items=10, repeats=2))
    json.dumps(to_json(report), allow_nan=False)
