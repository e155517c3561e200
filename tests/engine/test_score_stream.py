"""Streams of items: read no further than a result needs, and checked as lists are.

If one of these fails, a stream is read into memory, or gives other scores or errors than `score`.
"""

import numpy as np
import pytest

from engine_cases import ITEMS, LABELS, QUERY, TOLERANCE, make_model_and_oracle
from isoprefill import ScoringEngine
from isoprefill.request.errors import RequestError


@pytest.fixture(scope="module")
def model_and_oracle(tmp_path_factory):
    return make_model_and_oracle(tmp_path_factory.mktemp("model"))


def test_streaming_reads_no_further_than_a_result_needs(model_and_oracle):
    model, _ = model_and_oracle
    engine = ScoringEngine(model)
    taken = []

    def endless():
        for index in range(1_000_000):
            taken.append(index)
            yield ITEMS[index % len(ITEMS)]

    stream = engine.score_stream(QUERY, endless(), items_at_once=32, label_token_ids=LABELS)
    first, second = next(stream), next(stream)
    assert len(taken) == 64
    whole = engine.score(QUERY, ITEMS[:64], LABELS, algorithm="packed_extend")
    np.testing.assert_allclose(
        np.concatenate([first.logprobs, second.logprobs]), whole.logprobs, atol=TOLERANCE
    )
    assert (first.cached_tokens, second.cached_tokens) == (0, len(QUERY))
    with pytest.raises(ValueError, match="items_at_once must be at least 1, got 0"):
        next(engine.score_stream(QUERY, ITEMS, items_at_once=0))


@pytest.mark.parametrize(
    ("items", "code"),
    [
        ("abc", "invalid_items_type"),
        ({"a": 1}, "invalid_items_type"),
        ({"a", "b"}, "invalid_items_type"),
        (7, "invalid_items_type"),
        ([], "empty_items"),
        (iter(()), "empty_items"),
    ],
)
@pytest.mark.parametrize("labels", [None, [1, 2], [[1], [2]]])
def test_a_stream_refuses_what_score_refuses(model_and_oracle, items, code, labels):
    """Else a text is taken for a list of its characters, and a list that is empty by mistake for a job that is done."""
    engine = ScoringEngine(model_and_oracle[0])
    for refused in (
        lambda: engine.score(QUERY, items, labels),
        lambda: next(engine.score_stream(QUERY, items, labels)),
    ):
        with pytest.raises(RequestError) as error:
            refused()
        assert error.value.code == code


def test_a_stream_takes_labels_for_each_item(model_and_oracle):
    """As `score` does; lists that are too few or too many are refused, and none is taken for another item's."""
    engine = ScoringEngine(model_and_oracle[0])
    items, labels = ITEMS[:5], [[index, index + 1] for index in range(5)]
    stream = list(engine.score_stream(QUERY, items, labels, items_at_once=2))
    whole = engine.score(QUERY, items, labels, algorithm="packed_extend")
    np.testing.assert_allclose(
        np.concatenate([part.logprobs for part in stream]), whole.logprobs, atol=TOLERANCE
    )
    for given, parts in ((labels[:1], 0), (labels[:3], 1), (labels[:4], 2), ([*labels, [1]], 3)):
        stream = engine.score_stream(QUERY, items, given, items_at_once=2)
        for _ in range(parts):
            next(stream)
        with pytest.raises(RequestError, match=f"got {len(given)} lists"):
            next(stream)
