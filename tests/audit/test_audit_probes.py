"""What the auditor's probes find, on servers that leak in one situation only, or refuse or break on some input."""

import dataclasses
import itertools
import time

import pytest
from fastapi import FastAPI, Response

from audited_servers import (
    SHORT,
    audit,
    causal,
    computing,
    leaking,
    own,
    small_directory,
    stub,
    torch_backend,
)
from isoprefill.audit import ServerError
from isoprefill.audit.conclusion import COUNTING, INDISPENSABLE, MUTATIONS
from isoprefill.audit.probes import PROBES
from isoprefill_torch.server import Backend, create_app


@pytest.fixture(scope="module")
def backend(tmp_path_factory) -> Backend:
    return torch_backend(small_directory(tmp_path_factory.mktemp("llama")))


def num_words(query: str, items: list) -> int:
    return sum(len(str(text).split()) for text in [query, *items])


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


def test_token_delimiters_are_smuggled_too(backend):
    settings = dataclasses.replace(SHORT, delimiter_token_id=10)
    report = audit(create_app(backend), settings=settings)
    finding = next(one for one in report.findings if one.name == "delimiter_in_item")
    assert "token 10" in finding.details["diffs"]


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


def test_what_a_server_refuses_is_recorded():
    """Long lists and special texts; what is left is judged."""

    def refuses(_, items):
        return len(items) > 50 or any("<" in item for item in items)

    findings = {one.name: one for one in audit(stub(refuses)).findings}
    assert findings["item_count"].verdict == "isolated"
    assert findings["item_count"].details["refused_counts"] == {"100": "HTTP 422: no"}
    assert findings["delimiter_in_item"].verdict == "rejected"


def test_hostile_input_that_breaks_a_server_is_reported_without_hiding_the_rest(backend):
    app, isolated = FastAPI(), create_app(backend)

    @app.middleware("http")
    async def break_on_empty_items(request, call_next):
        if b'""' in await request.body():
            return Response("Traceback", 500)
        return await call_next(request)

    app.mount("/", isolated)
    report = audit(app, settings=SHORT)
    findings = {finding.name: finding for finding in report.findings}
    assert findings["empty_item"].verdict == "failed"
    assert "Traceback" in findings["empty_item"].reason
    assert report.conclusion.verdict == "ISOLATED"


def test_the_conclusion_names_probes_that_exist():
    """It looks for some by name: one under another name would no longer count."""
    assert {*INDISPENSABLE, *COUNTING, *MUTATIONS} <= {probe.name for probe in PROBES}
