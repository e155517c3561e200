"""Every way to compute scores gives what query + item alone gives: by transformers in float64, on small random models.

If one of these fails, an algorithm, a chunk size, a delimiter or the prefix cache changes scores.
"""

import dataclasses
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest

import small_models
from engine_cases import (
    ALGORITHMS,
    DELIMITER_ID,
    ITEMS,
    LABELS,
    MEAN_LENGTH,
    QUERY,
    TOLERANCE,
    delimiter_arguments,
    make_model_and_oracle,
)
from isoprefill import LabelSets, ScoreOptions, ScoringEngine
from isoprefill.execution.algorithms import PLANS
from isoprefill.execution.prefix_cache import REUSE_STEP
from isoprefill.modes import Algorithm
from isoprefill.request.errors import MissingLogprobError
from pairwise import cases
from unpacked_params import unpacked


@pytest.fixture(scope="module")
def model_and_oracle(tmp_path_factory):
    return make_model_and_oracle(tmp_path_factory.mktemp("model"))


def expected(oracle, kind, delimiter):
    query = [*QUERY, DELIMITER_ID] if delimiter == "prefix_first" else QUERY
    if kind == "labels":
        return np.array([oracle.labels(query, item, LABELS) for item in ITEMS])
    return np.array([oracle.tokens(query, item).sum() for item in ITEMS])


@pytest.mark.parametrize(
    "case",
    cases(
        {
            "algorithm": ALGORITHMS,
            "items_at_once": [1, 2, 7, 64, "all"],
            "delimiter": ["none", "hidden", "prefix_first"],
            "cache": ["miss", "hit"],
            "kind": ["likelihood", "labels"],
        }
    ),
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_scores_equal_query_and_item_alone(model_and_oracle, case):
    model, oracle = model_and_oracle
    count = len(ITEMS) if case["items_at_once"] == "all" else case["items_at_once"]
    rows = count * (MEAN_LENGTH + (case["delimiter"] != "none"))
    engine = ScoringEngine(
        model, pack_tokens=len(QUERY) + rows if count < len(ITEMS) else 10_000, chunk_tokens=rows
    )
    arguments = {
        "query": QUERY,
        "label_token_ids": LABELS if case["kind"] == "labels" else None,
        "algorithm": case["algorithm"],
        **delimiter_arguments(case["delimiter"]),
    }
    if case["cache"] == "hit":
        engine.score(items=ITEMS[3:5], **arguments)
    result = engine.score(items=ITEMS, **arguments)
    keeps = case["algorithm"] in ("prefill_extend", "packed_extend")
    prefix = len(QUERY) + (case["delimiter"] == "prefix_first")
    assert result.cached_tokens == (prefix if keeps and case["cache"] == "hit" else 0)
    assert (result.algorithm, result.reason) == (case["algorithm"], "it was requested")
    difference = np.abs(result.logprobs - expected(oracle, case["kind"], case["delimiter"]))
    assert difference.max() <= TOLERANCE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_labels_of_several_tokens_and_the_logprobs_of_items_tokens(model_and_oracle, algorithm):
    """A label's probability is the sum of its tokens'; both kinds of read-out come from one prefill."""
    model, oracle = model_and_oracle
    labels = LabelSets.parse([[[3, 99], [7]], [[5]], [[256, 3], [298], [4, 6, 8]]])
    result = ScoringEngine(model).score(
        QUERY, ITEMS[:3], labels, algorithm=algorithm, return_token_logprobs=True
    )
    everything = range(small_models.VOCAB_SIZE)
    for item, sets, row, tokens in zip(
        ITEMS[:3], labels.token_ids, result.logprobs, result.token_logprobs, strict=True
    ):
        by_token = oracle.labels(QUERY, item, everything)
        for label, logprob in zip(sets, row, strict=True):
            ids = label[label >= 0]
            expected = np.logaddexp.reduce(by_token[ids]) if ids.size else -np.inf
            np.testing.assert_allclose(logprob, expected, atol=TOLERANCE)
        np.testing.assert_allclose(tokens, oracle.tokens(QUERY, item), atol=TOLERANCE)
    assert result.num_labels.tolist() == [2, 1, 3]


def test_requests_of_all_kinds_share_packs(model_and_oracle):
    """A server packs whatever is waiting: labels must not land on another request's items."""
    model, oracle = model_and_oracle
    engine = ScoringEngine(model, pack_tokens=160)

    def make(query, items, labels=None, request_id="", **options):
        labels = None if labels is None else LabelSets.parse(labels)
        options = ScoreOptions(labels=labels, **options)
        return engine.preparer.request(query, items, options, request_id=request_id)

    requests = [
        make(QUERY, ITEMS[:5], request_id="likelihoods"),
        make(QUERY[:7], ITEMS[5:9], LABELS),
        make(QUERY[3:], ITEMS[:4], [[1], [2, 3, 4], [5, 6], [7]]),
        make(QUERY, ITEMS[2:4], item_first=True),
        make(QUERY[:3], ITEMS[:3], delimiter="hidden", delimiter_id=DELIMITER_ID),
        make(QUERY[:3], ITEMS[:30], LABELS, delimiter="prefix_first", delimiter_id=DELIMITER_ID),
    ]
    for algorithm in ("packed", "auto", "serial"):
        results = [one.logprobs for one in engine.score_batch(requests, algorithm=algorithm)]
        wanted = [
            [oracle.tokens(QUERY, item).sum() for item in ITEMS[:5]],
            [oracle.labels(QUERY[:7], item, LABELS) for item in ITEMS[5:9]],
            None,
            [oracle.tokens(item, QUERY).sum() for item in ITEMS[2:4]],
            [oracle.tokens(QUERY[:3], item).sum() for item in ITEMS[:3]],
            [oracle.labels([*QUERY[:3], DELIMITER_ID], item, LABELS) for item in ITEMS[:30]],
        ]
        for result, values in zip(results, wanted, strict=True):
            if values is not None:
                np.testing.assert_allclose(result, values, atol=TOLERANCE)
        for item, labels, row in zip(
            ITEMS[:4], [[1], [2, 3, 4], [5, 6], [7]], results[2], strict=True
        ):
            values = oracle.labels(QUERY[3:], item, labels)
            np.testing.assert_allclose(row[: len(labels)], values, atol=TOLERANCE)
            assert np.isneginf(row[len(labels) :]).all()


@pytest.mark.parametrize("algorithm", ["prefill_extend", "packed_extend"])
@pytest.mark.parametrize("length", [159, 161, 290], ids=["shorter", "one more", "longer"])
def test_a_query_that_begins_like_a_kept_one_reuses_it(model_and_oracle, algorithm, length):
    """The rest is computed over the kept keys and values, and is then kept itself."""
    model, oracle = model_and_oracle
    engine = ScoringEngine(model)
    kept = QUERY * 4
    assert REUSE_STEP < len(kept) < 2 * REUSE_STEP
    engine.score(kept, ITEMS[:2], algorithm=algorithm)
    query = (kept * 2)[:length]
    results = [engine.score(query, ITEMS[:6], algorithm=algorithm) for _ in range(2)]
    assert [one.cached_tokens for one in results] == [REUSE_STEP, length]
    for one in results:
        values = [oracle.tokens(query, item).sum() for item in ITEMS[:6]]
        np.testing.assert_allclose(one.logprobs, values, atol=TOLERANCE)
    stats = engine.prefix_cache_stats
    assert (stats.misses, stats.extensions, stats.hits, stats.num_prefixes) == (1, 1, 1, 2)
    assert stats.num_bytes > 0
    engine.clear_prefix_cache()
    assert engine.prefix_cache_stats.num_bytes == 0


def test_causal_scoring_sees_the_items_before(model_and_oracle):
    """The contaminated mode is what it says: each item after all before it."""
    model, oracle = model_and_oracle
    result = ScoringEngine(model).score(QUERY, ITEMS[:4], isolation="causal")
    before = list(QUERY)
    for item, logprob in zip(ITEMS[:4], result.logprobs, strict=True):
        assert abs(oracle.tokens(before, item).sum() - logprob) <= TOLERANCE
        before += item
    with pytest.raises(ValueError, match="no meaning with algorithm 'packed_extend'"):
        ScoringEngine(model).score(QUERY, ITEMS, isolation="causal", algorithm="packed_extend")


@pytest.mark.parametrize("kind", ["likelihood", "labels"])
def test_a_missing_logprob_is_an_error_that_names_request_and_item(model_and_oracle, kind):
    """Weights that give NaN for one token: no score is made up for the item that holds it."""
    model, _ = model_and_oracle
    params = unpacked(model.params)
    embedding = params.embedding.at[299].set(jnp.nan)
    broken = dataclasses.replace(model, params=params._replace(embedding=embedding))
    engine = ScoringEngine(broken)
    request = engine.preparer.request(
        QUERY,
        [*ITEMS[:2], [5, 299, 7]],
        ScoreOptions(labels=LabelSets.parse(LABELS) if kind == "labels" else None),
        request_id="the second",
    )
    fine = engine.preparer.request(QUERY, ITEMS[:2], request_id="the first")
    message = r"request 'the second': items\[2\] has no log-probability"
    with pytest.raises(MissingLogprobError, match=message):
        engine.score_batch([fine, request], algorithm="serial")


def test_every_algorithm_has_a_row_in_the_table():
    assert tuple(PLANS) == get_args(Algorithm)
