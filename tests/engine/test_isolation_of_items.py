"""Isolation on the real SmolLM2 weights: an item's score does not depend on its neighbours.

If one of these fails, packed scores are wrong in a way that nobody notices. Every detector is also run on
contaminated scoring (isolation="causal"), where it must find the contamination.
"""

import functools

import numpy as np
import pytest

from isoprefill import ScoringEngine

QUERY = "Rate this restaurant review as good or bad:"
ITEMS = [
    " The food was excellent and the service was great.",
    " Terrible food, awful service, never coming back.",
    " Fine.",
    " We waited for an hour, but the pasta that came in the end was the best that I have had outside of Italy,"
    " and the waiter took the time to explain every dish to my parents.",
    " Great",
]
TARGET = " The food was excellent and service was great"
DISTRACTOR = " Terrible food, awful service, never coming back"
LABELS = [" good", " bad", " yes"]

DETECTION_THRESHOLD = (
    1e-3  # the smallest change that the causal runs must show; isolated ones stay below ROUNDING
)
# How far an item's score may move when its neighbours move it to other rows, or grow. Of the back ends, only the
# reference sums in an order that depends on them.
ROUNDING = {"xla": 0.0, "cpu": 0.0, "dense": 2e-4}


@functools.cache
def engine(attention: str) -> ScoringEngine:
    return ScoringEngine.from_pretrained("smollm2-135m", attention=attention)


@pytest.fixture(params=["xla", "cpu", "dense"])
def attention(request):
    return request.param


@pytest.fixture(params=["likelihood", "labels"])
def score(request, attention):
    """A function of items and isolation: log-probabilities [items] or [items, labels]."""
    scorer = engine(attention)
    labels = [scorer.label_id(label) for label in LABELS] if request.param == "labels" else None

    def run(items, isolation="isolated"):
        return scorer.score(QUERY, items, label_token_ids=labels, isolation=isolation).logprobs

    return run


def order_effect(score, isolation="isolated"):
    """How much an item's score changes when the list is reversed."""
    return np.abs(score(ITEMS, isolation) - score(ITEMS[::-1], isolation)[::-1]).max()


def content_effect(score, isolation="isolated"):
    """How much an item's score changes when the others' tokens change but not their lengths."""
    encode = engine("xla").model.tokenizer.encode
    tokens = [encode(item) for item in ITEMS]
    effect = 0.0
    original = score(tokens, isolation)
    for kept in range(len(tokens)):
        changed = [item if index == kept else item[::-1] for index, item in enumerate(tokens)]
        changed = [
            item if index == kept else [(token * 31 + 7) % 40_000 + 100 for token in item]
            for index, item in enumerate(changed)
        ]
        effect = max(effect, np.abs(score(changed, isolation)[kept] - original[kept]).max())
    return effect


def scaling_effect(score, isolation="isolated"):
    """How much the target's score changes with the number of distractors before it."""
    targets = [score([DISTRACTOR] * count + [TARGET], isolation)[-1] for count in (0, 1, 5, 10, 20)]
    return max(np.abs(target - targets[0]).max() for target in targets)


def length_effect(score, isolation="isolated"):
    """How much the last item's score changes when a neighbour grows by a few tokens."""
    short = score([" Fine.", TARGET], isolation)[-1]
    long = score([" Fine, but not as fine as we had hoped it would be.", TARGET], isolation)[-1]
    return np.abs(short - long).max()


def test_content_of_neighbours_changes_nothing_at_all(score):
    assert content_effect(score) == 0.0


def test_order_of_items_changes_nothing(score, attention):
    assert order_effect(score) <= ROUNDING[attention]


def test_number_of_preceding_items_changes_nothing(score, attention):
    assert scaling_effect(score) <= ROUNDING[attention]


def test_length_of_a_neighbour_changes_nothing(score, attention):
    assert length_effect(score) <= ROUNDING[attention]


@pytest.mark.parametrize("effect", [order_effect, content_effect, scaling_effect, length_effect])
def test_detectors_find_the_contamination_of_causal_scoring(score, effect):
    assert effect(score, isolation="causal") > DETECTION_THRESHOLD


@pytest.mark.parametrize("attention", ["xla", "cpu"], indirect=True)  # the reference needs a minute
def test_an_item_alone_scores_as_in_a_list_of_a_hundred(score):
    items = [f"{ITEMS[index % len(ITEMS)]} {index}" for index in range(100)]
    together = score(items)
    for index in (0, 1, 50, 99):
        assert np.abs(score([items[index]])[0] - together[index]).max() <= 1e-4


@pytest.mark.parametrize("attention", ["xla", "cpu"], indirect=True)
def test_cutting_a_list_into_packs_changes_nothing(attention):
    """A pack boundary between two items must not be visible in any score."""
    whole = engine(attention).score(QUERY, ITEMS).logprobs
    model = engine(attention).model
    for pack_tokens in (1, 40, 64, 100):
        cut = (
            ScoringEngine(model, attention=attention, pack_tokens=pack_tokens)
            .score(QUERY, ITEMS)
            .logprobs
        )
        np.testing.assert_array_equal(cut, whole)
