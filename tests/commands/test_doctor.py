"""`isoprefill doctor` finds what is wrong: each check is given a planted fault, and a machine without one.

If one of these fails, a stranger is told that a machine is fine which is not, or the reverse.
"""

import dataclasses
import itertools
import json

import numpy as np
import pytest

import isoprefill_csrc
import small_models
from command_line import run
from huggingface_directory import save_directory
from isoprefill import PackedLayout, ScoringEngine
from isoprefill.cli import doctor
from isoprefill.doctor import attention, cache_folders, layers, machine, scoring, speed, tpu_speed
from isoprefill.doctor import run as checks
from isoprefill.doctor.definition import PACKS
from isoprefill.doctor.finding import Finding
from isoprefill.doctor.regions import Shape
from isoprefill.models.sources.pinned import FetchError

BACKENDS = ("cpu", "xla", "dense")


@pytest.fixture(scope="module")
def engine():
    return ScoringEngine.from_pretrained("smollm2-135m")


def by_name(findings) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def of_attention(spoiled, monkeypatch) -> dict[str, Finding]:
    """What is found if `spoiled(compute, operands, layout)` is computed instead; not interpreted, for a minute less."""
    monkeypatch.setattr(attention, "BACKENDS", BACKENDS)

    def attend(backend):
        compute = attention._product(backend)
        return lambda operands, layout: spoiled(compute, operands, layout)

    return by_name(attention.check_attention(attend))


def causal(compute, operands, layout):
    """Every item sees the items before it: their columns are the query's."""
    starts = np.flatnonzero(np.diff(layout.request_ids, prepend=-2))
    lens = [int((layout.request_ids == request).sum()) for request in layout.request_ids[starts]]
    whole = [PackedLayout.from_lengths(length, []) for length in lens if length]
    return compute(
        operands, PackedLayout.concat(whole[: layout.request_ids.max() + 1], layout.num_rows)
    )


def test_attention_as_it_is_passes(monkeypatch):
    found = of_attention(lambda compute, *arguments: compute(*arguments), monkeypatch)
    assert {finding.status for finding in found.values()} == {"ok"}
    assert set(found) == {
        f"{kind}: {one}" for kind in ("attention", "isolation") for one in BACKENDS
    }


@pytest.mark.parametrize(
    ("spoiled", "kind"),
    [
        (causal, "attention"),
        (causal, "isolation"),
        (lambda compute, *arguments: compute(*arguments) * 1.01, "attention"),
        (lambda compute, *arguments: np.full_like(compute(*arguments), np.nan), "attention"),
        (
            lambda compute, operands, layout: compute(
                operands, dataclasses.replace(layout, window=layout.window and layout.window + 1)
            ),
            "attention",
        ),
        (
            # A sum over everything that takes part, too small for any tolerance.
            lambda compute, operands, layout: (
                compute(operands, layout)
                + np.float32(1e-6) * np.tanh(np.nansum(operands[2], dtype=np.float32))
            ),
            "isolation",
        ),
    ],
    ids=["causal", "causal, bits", "scaled", "nan", "window off by one", "a trace of the others"],
)
def test_a_fault_of_the_attention_is_found(spoiled, kind, monkeypatch):
    found = of_attention(spoiled, monkeypatch)
    assert {found[f"{kind}: {backend}"].status for backend in BACKENDS} == {"failed"}


def test_an_error_of_the_compiler_is_a_finding(monkeypatch):
    def broken(compute, operands, layout):
        raise RuntimeError("no such instruction\nand more")

    found = of_attention(broken, monkeypatch)
    assert {finding.detail for finding in found.values()} == {"no such instruction"}


def test_the_packs_hold_what_is_hard():
    assert any(pack.window for pack in PACKS)
    assert any(len(pack.requests) > 1 for pack in PACKS)
    assert any(pack.heads[0] > pack.heads[1] for pack in PACKS)


def test_the_layer_kernels_as_they_are_pass():
    found = by_name(layers.check_layer_kernels())
    assert {name: finding.status for name, finding in found.items()} == {
        "layer kernels": "ok",
        "isolation: layers": "ok",
    }


@pytest.mark.parametrize(
    ("spoiled", "failed"),
    [
        (lambda heads, gated: (heads, gated * np.float32(1.05)), {"layer kernels"}),
        (lambda heads, gated: (np.roll(heads, 64, axis=1), gated), {"layer kernels"}),
        (lambda heads, gated: (heads, np.full_like(gated, np.nan)), {"layer kernels"}),
        # A trace of the other rows, within any tolerance.
        (
            lambda heads, gated: (heads + 1e-3 * np.isnan(heads.astype(float)).any(), gated),
            {"isolation: layers"},
        ),
    ],
    ids=["gate", "halves swapped", "nan", "a trace of the others"],
)
def test_a_fault_of_the_layer_kernels_is_found(spoiled, failed):
    """The known scores would not show it: SmolLM2 has widths that these kernels do not take."""

    def kernels(x):
        exact = layers._definition(x.astype(np.float64))
        return spoiled(*(result.astype(x.dtype) for result in exact))

    found = layers.check_layer_kernels(kernels)
    assert {finding.name for finding in found if finding.status == "failed"} == failed


TINY = Shape(40, (20,) * 4, 128, 128, 2, 1)


def two_milliseconds_a_run():
    """The readings of a clock, half a second of calling included: one run compiles, then two count, less one."""
    now = 0.0
    for runs in itertools.cycle((1, 2, 1)):
        yield now
        now += 0.5 + 2e-3 * runs
        yield now


def test_a_tpu_that_is_not_as_fast_as_its_compiler_says_is_noted(monkeypatch):
    """The programs are those of a TPU, tiny, in the interpreter; each run takes 2 ms by this clock."""
    estimates = {"attention": 1.6, "query projection": 0.4, "gate and up": 4.0}
    monkeypatch.setattr(tpu_speed, "_estimated", lambda: {"v6e": estimates})
    monkeypatch.setattr(tpu_speed, "_REPEATS", 1)
    clock = two_milliseconds_a_run().__next__
    found = by_name(tpu_speed.check_tpu_speed("TPU v6 lite", TINY, times=1, clock=clock))
    assert {name: finding.status for name, finding in found.items()} == {
        "time: attention": "ok",
        "time: query projection": "note",
        "time: gate and up": "note",
    }
    for region, estimated in estimates.items():
        numbers = found[f"time: {region}"].numbers
        assert numbers == pytest.approx({"measured_ms": 2.0, "estimated_ms": estimated})


def test_a_region_that_does_not_run_is_found(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("out of VMEM\nand more")

    monkeypatch.setattr(tpu_speed, "measure", broken)
    found = list(tpu_speed.check_tpu_speed("TPU v6 lite", TINY))
    assert {finding.status for finding in found} == {"failed"}
    assert {finding.detail for finding in found} == {"does not run: out of VMEM"}


def test_every_region_of_a_known_chip_has_an_estimate():
    regions = {region.name for region in tpu_speed.regions(TINY)}
    assert all(set(of_chip) == regions for of_chip in tpu_speed._estimated().values())


def test_folders_that_cannot_be_written_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOPREFILL_CACHE", str(tmp_path / "new"))
    assert {finding.status for finding in cache_folders.check_cache_folders()} == {"ok"}
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("ISOPREFILL_CACHE", str(tmp_path / "file"))
    found = list(cache_folders.check_cache_folders())
    assert {finding.status for finding in found} == {"failed"}
    assert all("ISOPREFILL_CACHE" in finding.advice for finding in found)


def test_instructions_and_threads_that_are_not_used_are_noted(monkeypatch):
    monkeypatch.setattr(isoprefill_csrc, "available_instructions", lambda: ["portable", "avx2"])
    monkeypatch.setattr(isoprefill_csrc, "best_instructions", lambda: "portable")
    monkeypatch.setattr(machine, "usable_threads", lambda: 10_000)
    found = by_name(machine.describe_machine())
    assert found["instructions"].status == found["threads"].status == "note"


class Spoiled:
    """The engine, but for its scores."""

    def __init__(self, engine, scores):
        self._engine, self._scores = engine, scores
        self.model = engine.model

    def score(self, query, items, *arguments, **options):
        result = self._engine.score(query, items, *arguments, **options)
        return dataclasses.replace(result, scores=self._scores(result.scores))


def test_scores_as_they_are_pass(engine):
    found = by_name(scoring.check_scoring(engine, "float32", known=True))
    assert {name: finding.status for name, finding in found.items()} == {
        "known scores": "ok",
        "neighbours": "ok",
    }


def test_a_classification_model_is_checked_too(tmp_path):
    """It has a score for each class, takes no labels, and here a vocabulary of 300."""
    model = small_models.random_classifier("qwen3", num_labels=3, num_hidden_layers=2)
    classifier = ScoringEngine.from_pretrained(save_directory(model, tmp_path))
    (found,) = scoring.check_scoring(classifier, "float32", known=False)
    assert found.status == "ok"
    clock = itertools.count(step=1.0).__next__
    assert speed.check_speed(classifier, "float32", "amx", known=False, clock=clock).status == "ok"


def test_wrong_scores_are_found(engine):
    spoiled = Spoiled(engine, lambda scores: [score - 1e-3 for score in scores])
    assert (
        by_name(scoring.check_scoring(spoiled, "float32", known=True))["known scores"].status
        == "failed"
    )


def test_scores_that_neighbours_move_are_found(engine):
    spoiled = Spoiled(engine, lambda scores: [score + 1e-6 * len(scores) for score in scores])
    found = by_name(scoring.check_scoring(spoiled, "float32", known=False))
    assert {name: finding.status for name, finding in found.items()} == {"neighbours": "failed"}


@pytest.mark.parametrize(("seconds", "status"), [(0.1, "ok"), (30.0, "note")])
def test_a_slow_machine_is_noted(engine, seconds, status):
    clock = itertools.count(step=seconds).__next__
    instant = Spoiled(engine, list)
    instant.score = lambda *arguments, **options: None
    assert speed.check_speed(instant, "float32", "amx", known=True, clock=clock).status == status


def test_the_command_says_what_is_wrong_and_ends_with_7(monkeypatch, tmp_path):
    bad = Finding("attention: cpu", "failed", "off by 1", "do not use it")
    monkeypatch.setattr(doctor, "run_checks", lambda *arguments: [Finding("a", "ok", "b"), bad])
    done = run(doctor)
    assert done.status == 7
    assert "FAILED   attention: cpu" in done.stdout
    assert done.lines[-1] == "Wrong here: attention: cpu."
    report = json.loads(run(doctor, "--json", f"--report={tmp_path}/report.json").stdout)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["healthy"] is False
    assert report["checks"][1] == dataclasses.asdict(bad)


def test_a_wrong_model_is_named_before_the_checks(monkeypatch):
    """They take a minute, which somebody who misspelt a name would wait."""
    monkeypatch.setattr(doctor, "_print", lambda finding: pytest.fail("a check was made"))
    done = run(doctor, "--model=/nonexistent")
    assert (done.status, done.stdout) == (2, "")
    assert "does not exist" in done.stderr


def test_a_report_that_cannot_be_written_is_named_before_the_checks(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "run_checks", lambda *arguments: pytest.fail("a check was made"))
    done = run(doctor, f"--report={tmp_path}/no/report.json")
    assert (done.status, done.stdout) == (1, "")
    assert "report.json" in done.stderr


def test_without_a_model_the_rest_is_checked(monkeypatch):
    def load(model, dtype):
        raise FetchError("no network")

    monkeypatch.setattr(checks, "check_attention", lambda: [])
    monkeypatch.setattr(checks, "check_layer_kernels", lambda: [])
    last = list(checks.run_checks(load=load))[-1]
    assert (last.name, last.status, last.detail) == ("model", "skipped", "no network")
