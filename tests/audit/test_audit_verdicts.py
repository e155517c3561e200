"""The auditor's verdict on real back ends, on planted faults and on noise, over HTTP on loopback.

If one of these fails, the auditor clears a server that leaks, or accuses one that does not.
"""

import contextlib
import dataclasses
import itertools
import math
from pathlib import Path

import pytest

import planted_faults
from audited_servers import (
    LABELS,
    SETTINGS,
    SHORT,
    audit,
    causal,
    computing,
    leaking,
    own,
    planted,
    small_directory,
    stub,
    torch_backend,
)
from isoprefill.audit import AuditSettings, ScoreClient, run_audit
from isoprefill.audit.comparison import compare
from isoprefill.audit.instrument import Instrument
from isoprefill.audit.markdown_report import to_markdown
from isoprefill_torch.server import Backend, create_app
from local_server import serving
from running_server import running_server


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return small_directory(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def backend(directory) -> Backend:
    return torch_backend(directory)


@pytest.fixture(scope="module")
def product_server(directory):
    with running_server(f"--model={directory}", "--warmup-tokens=64") as server:
        yield server


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
    # Eager flex attention and a prefill for each item are slow.
    settings = SHORT if method in ("flex", "serial") else SETTINGS
    report = audit(create_app(chosen), labels, settings)
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
    report = audit(planted_faults.batching_app(backend.scorer), settings=SHORT)
    assert report.conclusion.verdict == "PARTIAL"
    assert leaking(report) == {"concurrent_requests"}
    assert "simultaneous requests" in report.conclusion.explanation


def test_batching_without_a_leak_is_cleared(backend):
    report = audit(planted_faults.batching_app(backend.scorer, leak=False), settings=SHORT)
    assert report.conclusion.verdict == "ISOLATED"


class AskingForCausal(ScoreClient):
    """Asks our server to let items see each other."""

    def _post(self, body, num_items):
        return super()._post({**body, "isolation": "causal"}, num_items)


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


def test_an_effect_that_does_not_come_again_is_not_taken_for_a_leak():
    report = audit(stub(glitch_at=2 * SHORT.repeats + 3), settings=SHORT)
    assert report.findings[0].verdict == "inconclusive"
    assert "did not appear again" in report.findings[0].reason
    assert report.conclusion.verdict == "INCONCLUSIVE"


def test_an_effect_that_cannot_be_measured_again_is_not_taken_for_a_leak():
    """And the audit goes on: what else the server answers is still reported."""
    glitch, numbers = 2 * SHORT.repeats + 3, itertools.count(1)  # the first probe's first of two
    report = audit(stub(lambda *_: next(numbers) > glitch + 1, glitch_at=glitch), settings=SHORT)
    assert report.findings[0].verdict == "inconclusive"
    assert "could not be measured again" in report.findings[0].reason
    assert report.findings[1].verdict == "rejected"


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


def test_a_cleared_server_is_told_how_far_was_asked():
    report = audit(computing(lambda query, items: [own(query, item) for item in items]))
    assert "The largest request had 100 items" in report.conclusion.explanation
    assert "an effect above 0.001 would have been found" in report.conclusion.explanation


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


def test_servers_with_different_numbers_of_labels_cannot_be_compared(backend):
    with (
        serving(create_app(backend)) as url,
        contextlib.closing(ScoreClient(url)) as one,
        contextlib.closing(ScoreClient(url, label_token_ids=LABELS)) as other,
        pytest.raises(ValueError, match=r"sends 1 scores for an item, .* 3"),
    ):
        compare(
            Instrument(one, AuditSettings(repeats=2)), Instrument(other, AuditSettings(repeats=2))
        )
