"""Isolation of every algorithm, chunk size, delimiter mode and back end, with the prefix cached and not.

On a random model of two layers: what the first layer let through, the second would spread. If one of these fails,
some way of computing scores lets neighbours into them; published systems did at some chunk sizes only.
"""

import numpy as np
import pytest

import small_models
from huggingface_directory import save_directory
from isoprefill import ScoringEngine
from isoprefill.execution.algorithms import PLANS
from isoprefill.modes import Delimiter
from pairwise import cases

RANDOM = np.random.default_rng(0)
DELIMITER_ID = 0  # in no list below
QUERY = RANDOM.integers(1, 250, 40).tolist()
ITEMS = [RANDOM.integers(1, 250, length).tolist() for length in [5, 1, 9, 2, 3] * 14]
MEAN_LENGTH = 4
TARGETS = [0, 33, 69]  # whose scores are watched
LABELS = [3, 99]
DELIMITERS = ["none", "hidden", "prefix_first"]
ALGORITHMS = list(PLANS)

ROUNDING = 1e-4  # of an order of summation that other lengths may change
CONTAMINATION = 1e-2  # the least that causal scoring shows


def other_content(items):
    """All but the targets get other tokens; lengths stay."""
    return [
        item if index in TARGETS else [(token * 31 + 7) % 249 + 1 for token in item]
        for index, item in enumerate(items)
    ], TARGETS


def other_lengths(items):
    """All but the targets grow."""
    return [
        item if index in TARGETS else item + [17] * (1 + index % 3)
        for index, item in enumerate(items)
    ], TARGETS


def other_order(items):
    """The list from its end."""
    return items[::-1], [len(items) - 1 - target for target in TARGETS]


def fewer(items):
    """The targets alone."""
    return [items[target] for target in TARGETS], list(range(len(TARGETS)))


CHANGES = {
    "content": other_content,
    "lengths": other_lengths,
    "order": other_order,
    "number": fewer,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    model = small_models.random_model(
        "llama",
        num_hidden_layers=2,
        head_dim=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,  # causal scoring of all items takes over 512
    )
    return save_directory(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(directory):
    return ScoringEngine.from_pretrained(directory).model


def arguments(kind: str, delimiter: Delimiter) -> dict:
    return {
        "label_token_ids": LABELS if kind == "labels" else None,
        "delimiter": delimiter,
        "delimiter_id": None if delimiter == "none" else DELIMITER_ID,
    }


def change_of_targets(score, change) -> np.ndarray:
    """By how much each target's log-probabilities move; [targets]."""
    items, places = CHANGES[change](ITEMS)
    moved = score(items)[places] - score(ITEMS)[TARGETS]
    return np.abs(moved.reshape(len(TARGETS), -1)).max(axis=1)


@pytest.mark.parametrize(
    "case",
    cases(
        {
            "algorithm": ALGORITHMS,
            "items_at_once": [1, 2, 7, 64, "all"],
            "delimiter": DELIMITERS,
            "cache": ["miss", "hit"],
            "kind": ["likelihood", "labels"],
            "change": list(CHANGES),
        }
    ),
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_neighbours_change_nothing(model, case):
    count = len(ITEMS) if case["items_at_once"] == "all" else case["items_at_once"]
    rows = 10_000 if count == len(ITEMS) else count * (MEAN_LENGTH + 1)
    engine = ScoringEngine(model, pack_tokens=len(QUERY) + rows, chunk_tokens=rows)

    def score(items):
        if case["cache"] == "hit":
            engine.score(QUERY, ITEMS[:1], algorithm=case["algorithm"], **options)
        else:
            engine.clear_prefix_cache()
        result = engine.score(QUERY, items, algorithm=case["algorithm"], **options)
        assert bool(result.cached_tokens) == (
            case["cache"] == "hit" and case["algorithm"].endswith("extend")
        )
        return result.logprobs

    options = arguments(case["kind"], case["delimiter"])
    change = change_of_targets(score, case["change"]).max()
    assert change <= (0.0 if case["change"] == "content" else ROUNDING)


@pytest.mark.parametrize("kind", ["likelihood", "labels"])
@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("change", CHANGES)
def test_the_same_changes_show_in_causal_scoring(model, change, delimiter, kind):
    """Else the test above would find nothing anywhere."""
    engine = ScoringEngine(model)
    options = arguments(kind, delimiter)

    def score(items):
        return engine.score(QUERY, items, isolation="causal", **options).logprobs

    seen = change_of_targets(score, change)
    first = 0 if change == "order" else 1  # nobody stands before the first item
    assert (seen[first:] > CONTAMINATION).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS[1:])
def test_scores_are_the_same_with_and_without_the_prefix_cache(model, algorithm):
    keeps, keeps_nothing = ScoringEngine(model), ScoringEngine(model, prefix_cache_bytes=0)
    first, again, without = (
        engine.score(QUERY, ITEMS, LABELS, algorithm=algorithm)
        for engine in (keeps, keeps, keeps_nothing)
    )
    assert (again.cached_tokens, without.cached_tokens) == (
        len(QUERY) if algorithm.endswith("extend") else 0,
        0,
    )
    np.testing.assert_array_equal(first.logprobs, again.logprobs)
    np.testing.assert_array_equal(first.logprobs, without.logprobs)


@pytest.mark.parametrize(
    ("algorithm", "delimiter", "kind"),
    [  # "packed" is in test_kernel_isolation.py
        ("packed_extend", "hidden", "likelihood"),
        ("prefill_extend", "prefix_first", "labels"),
    ],
)
def test_the_kernel_gives_the_same_with_every_algorithm(directory, algorithm, delimiter, kind):
    """The TPU kernel in the TPU interpreter: over a cached prefix too, and its bits do not depend on neighbours."""
    options = {"algorithm": algorithm, **arguments(kind, delimiter)}
    items = ITEMS[:5]
    changed, _ = other_content(items)
    kernel = ScoringEngine.from_pretrained(directory, attention="pallas")
    xla = ScoringEngine(kernel.model, attention="xla")
    ours, others = (engine.score(QUERY, items, **options).logprobs for engine in (kernel, xla))
    assert np.abs(ours - others).max() <= 1e-4
    again = kernel.score(QUERY, changed, **options).logprobs
    np.testing.assert_array_equal(ours[TARGETS[0]], again[TARGETS[0]])
    assert (ours[1] != again[1]).any(), "the change is none"
