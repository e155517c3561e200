"""Embedding vectors instead of tokens, and several reads within an item.

If one of these fails, items that were computed beforehand score as other items, or a vector reaches a neighbour.
"""

import functools
import tempfile
from pathlib import Path
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import small_models
from huggingface_directory import save_directory
from isoprefill import EmbedOverrides, LabelSets, RequestError, ScoreOptions, ScoringEngine
from isoprefill.models.decoder.decoder import decode
from isoprefill.modes import Algorithm
from isoprefill.request.result import RequestLogprobs
from unpacked_params import unpacked

RANDOM = np.random.default_rng(0)
QUERY = RANDOM.integers(1, 250, 40).tolist()
ITEMS = [RANDOM.integers(1, 250, length).tolist() for length in [5, 1, 9, 2, 3, 17]]
LABELS = [3, 99]
TOKEN = 270  # in no text above
WIDTH = 64


@functools.cache
def oracle(head: str) -> tuple[torch.nn.Module, Path]:
    if head == "classes":
        model = small_models.random_classifier("qwen3", True, num_labels=3, num_hidden_layers=2)
    else:
        model = small_models.random_model("llama", num_hidden_layers=2)
    return model, save_directory(model, Path(tempfile.mkdtemp()))


@functools.cache
def engine(head: str = "labels", dtype: str = "float32") -> ScoringEngine:
    return ScoringEngine.from_pretrained(oracle(head)[1], dtype)


def labels_of(head: str) -> list[int] | None:
    return LABELS if head == "labels" else None


def rows(head: str, tokens: list[int], dtype: str = "float32") -> np.ndarray:
    """The model's own embeddings of tokens."""
    weight = oracle(head)[0].get_input_embeddings().weight.detach()
    return weight.to(getattr(torch, dtype)).float().numpy()[tokens]


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
@pytest.mark.parametrize("head", ["labels", "classes"])
def test_own_embeddings_score_as_their_tokens(head, algorithm):
    """To the bit: items and query of vectors, some of them, or some tokens of them."""
    scorer, labels = engine(head), labels_of(head)
    expected = scorer.score(QUERY, ITEMS, labels, algorithm=algorithm).scores
    vectors = [rows(head, item) for item in ITEMS]
    for query, items in (
        (QUERY, vectors),
        (QUERY, [vectors[0], ITEMS[1], *vectors[2:]]),
        (rows(head, QUERY), ITEMS),
        (rows(head, QUERY), vectors),
    ):
        found = scorer.score(query, items, labels, algorithm=algorithm)
        np.testing.assert_array_equal(found.scores, expected)


def test_own_embeddings_in_bfloat16():
    scorer = engine("labels", "bfloat16")
    expected = scorer.score(QUERY, ITEMS, LABELS).scores
    vectors = [rows("labels", item, "bfloat16") for item in ITEMS]
    np.testing.assert_array_equal(scorer.score(QUERY, vectors, LABELS).scores, expected)


@pytest.mark.parametrize("item_first", [False, True])
def test_overrides_take_the_places_of_their_token(item_first):
    scorer = engine()
    expected = scorer.score(QUERY, ITEMS, LABELS, item_first=item_first).scores
    query = [TOKEN, *QUERY[1:7], TOKEN, *QUERY[8:]]
    items = [[TOKEN] * len(ITEMS[0]), ITEMS[1], [*ITEMS[2][:8], TOKEN], *ITEMS[3:]]
    overrides = EmbedOverrides(
        token_id=TOKEN,
        query=rows("labels", [QUERY[0], QUERY[7]]),
        items=[rows("labels", ITEMS[0]), None, rows("labels", ITEMS[2][8:]).tolist(), *[None] * 3],
    )
    found = scorer.score(query, items, LABELS, item_first=item_first, overrides=overrides)
    np.testing.assert_array_equal(found.scores, expected)


def test_own_embeddings_without_packed_weights():
    """The plain decoder, which runs on every other device than a CPU, looks vectors up too."""
    model = engine().model
    params = unpacked(model.params)

    def hidden(tokens, vectors=None):
        def attend(q, k, v, _):
            return q + jnp.repeat(k + v, 2, axis=1)

        ids, positions = jnp.asarray(tokens, jnp.int32), jnp.arange(len(tokens))
        return decode(params, model.config, ids, positions, attend, vectors=vectors)[0]

    vectors = jnp.asarray(rows("labels", [QUERY[3], QUERY[1]]))
    mixed = [QUERY[0], -2, QUERY[2], -1]
    np.testing.assert_array_equal(hidden(mixed, vectors), hidden(QUERY[:4]))


@pytest.mark.parametrize("algorithm", ["packed", "packed_extend"])
def test_vectors_of_no_token_equal_transformers(algorithm):
    """Arbitrary vectors: a few numbers of an item that was computed beforehand."""
    model, _ = oracle("classes")
    vectors = [RANDOM.normal(size=(n, WIDTH)).astype(np.float32) * 0.12 for n in (1, 3, 1)]
    found = engine("classes").score(QUERY, vectors, algorithm=algorithm).scores
    for row, item in zip(found, vectors, strict=True):
        both = np.concatenate([rows("classes", QUERY), item])
        with torch.inference_mode():
            wanted = model(inputs_embeds=torch.from_numpy(both)[None]).logits[0].numpy()
        np.testing.assert_allclose(row, wanted, atol=1e-3)


def test_a_neighbours_vectors_change_nothing():
    """Exactly 0, whatever they are and however many, and in requests that share a pack."""
    scorer, own = engine(), rows("labels", [7])
    alone = scorer.score(QUERY, [own], LABELS).scores[0]
    for size in (1e-3, 1.0, 1e6):
        others = [RANDOM.normal(size=(n, WIDTH)) * size for n in (2, 1, 30)]
        found = scorer.score(QUERY, [*others, own, others[0]], LABELS)
        np.testing.assert_array_equal(found.scores[3], alone)
    options = ScoreOptions(labels=LabelSets.shared(LABELS))
    prepared = [
        scorer.preparer.request(QUERY, items, options)
        for items in ([others[0], others[1]], [own], [ITEMS[0], own])
    ]
    _, second, third = scorer.score_batch(prepared, algorithm="packed")
    np.testing.assert_array_equal(np.exp(second.logprobs[0]), alone)
    np.testing.assert_array_equal(np.exp(third.logprobs[1]), alone)


def test_a_query_of_vectors_is_never_another_ones():
    """The cache knows queries by their tokens: two queries of vectors must not be taken for one."""
    scorer = engine()
    scorer.clear_prefix_cache()
    one, other = (RANDOM.normal(size=(40, WIDTH)) * 0.1 for _ in range(2))
    first = scorer.score(one, ITEMS, LABELS, algorithm="packed_extend")
    second = scorer.score(other, ITEMS, LABELS, algorithm="packed_extend")
    assert np.abs(first.scores - second.scores).max() > 1e-6
    again = scorer.score(one, ITEMS, LABELS, algorithm="packed_extend")
    np.testing.assert_array_equal(again.scores, first.scores)
    assert again.cached_tokens == 0


NAN = np.full((2, WIDTH), np.nan)
WRONG = {
    "width of an item": ({"items": [ITEMS[0], np.ones((2, 63))]}, "items[1]"),
    "one axis": ({"items": [np.ones(WIDTH)]}, "items[0]"),
    "width of the query": ({"query": np.ones((2, 65))}, "query"),
    "NaN": ({"items": [ITEMS[0], np.concatenate([np.ones((1, WIDTH)), NAN])]}, "items[1][1]"),
    "beyond float32": ({"items": [np.full((1, WIDTH), 1e39)]}, "items[0][0]"),
    "too few": (
        {
            "items": [[TOKEN, 1, TOKEN]],
            "overrides": EmbedOverrides(token_id=TOKEN, items=[NAN[:1]]),
        },
        "item_embed_overrides[0]",
    ),
    "too many": (
        {"items": [[1]], "overrides": EmbedOverrides(token_id=TOKEN, items=[NAN])},
        "item_embed_overrides[0]",
    ),
    "lists": (
        {"items": [[1]], "overrides": EmbedOverrides(token_id=TOKEN, items=[None, None])},
        "item_embed_overrides",
    ),
    "a list's width": (
        {
            "query": [1, TOKEN, TOKEN],
            "overrides": EmbedOverrides(token_id=TOKEN, query=[[0.0] * WIDTH, [0.0] * 3]),
        },
        "query_embed_overrides[1]",
    ),
    "a likelihood": ({"items": [ITEMS[0], np.ones((1, WIDTH))], "labels": None}, "items[1]"),
    "a likelihood of the query": (
        {"query": np.ones((1, WIDTH)), "labels": None, "item_first": True},
        "query",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_vectors_are_refused_where_they_are(case):
    given, param = WRONG[case]
    given = {"query": QUERY, "items": ITEMS, "labels": LABELS} | given
    query, items, labels = given.pop("query"), given.pop("items"), given.pop("labels")
    with pytest.raises(RequestError) as refused:
        engine().score(query, items, labels, **given)
    assert (refused.value.code, refused.value.param) == ("invalid_embed_overrides", param)


# Several reads within an item


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
@pytest.mark.parametrize("head", ["labels", "classes"])
def test_reads_at_a_token_are_those_of_the_item_cut_there(head, algorithm):
    """Each read has seen the item up to its token, and nothing of the other items."""
    scorer, labels = engine(head), labels_of(head)
    items = [[4, TOKEN, 5, 6, TOKEN], [TOKEN], [9, 9, 9, TOKEN, 9]]
    found = scorer.score(
        QUERY,
        items,
        labels,
        algorithm=algorithm,
        extraction_token_id=TOKEN,
        return_pooled_hidden_states=True,
    )
    assert found.num_reads.tolist() == [2, 1, 1]
    cut = [items[0][:2], items[0], items[1], items[2][:4]]
    expected = scorer.score(QUERY, cut, labels, return_pooled_hidden_states=True)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
    np.testing.assert_allclose(found.pooled_hidden_states, expected.pooled_hidden_states, atol=1e-4)
    assert found.rows_of(0) == slice(0, 2)
    assert found.rows_of(2) == slice(3, 4)
    with pytest.raises(ValueError, match="several"):
        found.best_first()


def test_reads_with_labels_for_each_item():
    items = [[4, TOKEN, 5, TOKEN], [TOKEN]]
    found = engine().score(QUERY, items, [[3], [7, 9]], extraction_token_id=TOKEN)
    expected = engine().score(QUERY, [items[0][:2], items[0], items[1]], [[3], [3], [7, 9]])
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"items": [[TOKEN], [1]]}, "items[1]"),
        ({"query": [1, TOKEN]}, "query"),
        ({"item_first": True}, "extraction_token_id"),
        ({"labels": None}, "extraction_token_id"),
    ],
)
def test_reads_that_mean_nothing_are_refused(given, param):
    given = {"query": QUERY, "items": [[TOKEN]], "labels": LABELS} | given
    query, items, labels = given.pop("query"), given.pop("items"), given.pop("labels")
    with pytest.raises(RequestError) as refused:
        engine().score(query, items, labels, extraction_token_id=TOKEN, **given)
    assert (refused.value.code, refused.value.param) == ("invalid_extraction_token", param)


@pytest.mark.parametrize("head", ["labels", "classes"])
def test_slices_of_a_request_join_to_the_whole(head):
    """The server scores a long request in slices: reads, states and vectors must stay with their items."""
    scorer = engine(head)
    items = [[4, TOKEN, 5, TOKEN], [TOKEN - 1, TOKEN], [TOKEN, 2], [TOKEN]]
    options = ScoreOptions(
        labels=None if head == "classes" else LabelSets.per_item([[3], [7, 9], [3], [1, 2]]),
        extraction_token_id=TOKEN,
        return_pooled_hidden_states=True,
    )
    overrides = EmbedOverrides(token_id=TOKEN - 1, items=[None, rows(head, [9]), None, None])
    request = scorer.preparer.request(QUERY, items, options, overrides=overrides)
    (whole,) = scorer.score_batch([request], algorithm="packed")
    parts = scorer.score_batch([request.slice(0, 2), request.slice(2, 4)], algorithm="packed")
    joined = RequestLogprobs.joined(parts)
    for name in ("logprobs", "num_labels", "num_reads", "num_tokens", "pooled_hidden_states"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
