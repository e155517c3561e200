"""What "auto" chooses, and the reason that it gives.

If one of these fails, queries that come again are computed again, or are kept where nothing is gained.
"""

import dataclasses

import jax
import numpy as np
import pytest

from engine_cases import ITEMS, QUERY, TOLERANCE, delimiter_arguments, make_model_and_oracle
from isoprefill import ScoringEngine
from unpacked_params import unpacked


@pytest.fixture(scope="module")
def model_and_oracle(tmp_path_factory):
    return make_model_and_oracle(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("arguments", "algorithm", "reason"),
    [
        ({}, "packed", "fit into one prefill"),
        ({"isolation": "causal"}, "packed", "items that see each other need one prefill"),
        ({"item_first": True}, "packed", "no common prefix to cache"),
        ({"items": ITEMS * 3}, "packed_extend", "more than fit into one prefill"),
        ({"query": QUERY * 10, "items": ITEMS[:2]}, "packed_extend", "cached for later calls"),
    ],
    ids=["short", "causal", "item first", "many items", "long query"],
)
def test_auto_says_what_it_chose_and_why(
    model_and_oracle, arguments, algorithm, reason, monkeypatch
):
    monkeypatch.setattr("isoprefill.execution.algorithms.LONG_QUERY", 300)
    engine = ScoringEngine(model_and_oracle[0], pack_tokens=500)
    result = engine.score(**{"query": QUERY, "items": ITEMS[:5], **arguments})
    assert result.algorithm == algorithm
    assert reason in result.reason


def test_auto_keeps_a_query_that_comes_again(model_and_oracle, caplog):
    """First in one prefill, then its keys and values are computed, then they are there."""
    engine = ScoringEngine(model_and_oracle[0])
    query = QUERY * 2
    with caplog.at_level("INFO", logger="absl"):
        results = [engine.score(query, ITEMS[:5]) for _ in range(3)]
    assert [one.algorithm for one in results] == ["packed", "packed_extend", "packed_extend"]
    assert [one.cached_tokens for one in results] == [0, 0, len(query)]
    assert "in the prefix cache" in results[2].reason
    assert "5 items over 80 query tokens: packed_extend, because the query is in" in caplog.text
    for one in results[1:]:
        np.testing.assert_allclose(one.logprobs, results[0].logprobs, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("delimiter", "dtype"), [("none", "float32"), ("prefix_first", "float32"), ("none", "bfloat16")]
)
def test_auto_does_not_pay_for_keeping_what_is_not_kept(
    model_and_oracle, delimiter, dtype, monkeypatch
):
    """A cache of no bytes, or of one too few, keeps no query, long or come again; one of enough does."""
    monkeypatch.setattr("isoprefill.execution.algorithms.LONG_QUERY", 300)
    model, _ = model_and_oracle
    model = dataclasses.replace(
        model,
        params=jax.tree.map(lambda leaf: leaf.astype(dtype), unpacked(model.params)),
    )
    options = {"items": ITEMS[:2], **delimiter_arguments(delimiter)}
    for query in (QUERY * 8, QUERY * 2):  # long; at its second time
        engine = ScoringEngine(model)
        engine.score(query, algorithm="packed_extend", **options)
        takes = engine.prefix_cache_stats.num_bytes
        for budget, algorithm in ((0, "packed"), (takes - 1, "packed"), (takes, "packed_extend")):
            engine = ScoringEngine(model, prefix_cache_bytes=budget)
            first, again = (engine.score(query, **options) for _ in range(2))
            assert again.algorithm == algorithm
            if algorithm == "packed":
                assert first.algorithm == algorithm
                assert "kept" not in first.reason + again.reason
