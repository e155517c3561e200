"""The engine agrees with itself and with transformers on the same weights.

If one of these fails, packed scores are not what scoring query + item alone gives.
"""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from isoprefill import ScoringEngine
from isoprefill.models.sources import pinned
from isoprefill.request.errors import RequestError
from transformers_gguf import model_by_transformers

QUERIES = {
    "short": "The capital of France is",
    "one token": "Hello",
    "long": "A list of facts about the cities of Europe, their rivers and their bridges. " * 4,
}
ITEMS = [
    " Paris",
    " London",
    " Berlin, which lies on the river Spree and has more bridges than Venice",
    " banana",
    "!",
    " the city that every traveller who comes from the north knows",
    " the city on the Seine, whose bridges carry more trains, carts, cars and walkers in an hour than those of any"
    " other town between the mountains and the northern sea, as its people like to say",
]
LONG_ITEM = (
    " the city on the Seine, whose bridges carry more trains, carts, cars and walkers in an hour than those of any"
    " other town between the mountains and the northern sea, as its people like to say, although nobody has ever"
    " counted them all in one hour, or would know how to begin, since the bridges are many and the people who would"
    " have to count them are few and often late"
)
LONG_ITEMS = [LONG_ITEM[:end] for end in (9, 180, 290, None)]  # 2 to 80 tokens
LABELS = [" yes", " no", ".", " Paris"]


@functools.cache
def engine() -> ScoringEngine:
    return ScoringEngine.from_pretrained("smollm2-135m")


@functools.cache
def torch_model() -> torch.nn.Module:
    return model_by_transformers(pinned.locate("smollm2-135m"))


@functools.cache
@torch.inference_mode()
def torch_logprobs(
    query: tuple[int, ...], item: tuple[int, ...], labels: tuple[int, ...]
) -> tuple[float, np.ndarray]:
    """log P(item | query) and log P(label | query, item), one item at a time, by transformers."""
    logits = torch_model()(torch.tensor([[*query, *item]])).logits[0].double()
    logprobs = torch.log_softmax(logits, dim=-1)
    rows = torch.arange(len(query) - 1, len(query) + len(item) - 1)
    return logprobs[rows, list(item)].sum().item(), logprobs[-1, list(labels)].numpy()


@pytest.mark.parametrize("algorithm", ["packed", "serial"])
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_scores_equal_transformers(query, algorithm):
    encode = engine().model.tokenizer.encode
    labels = [engine().label_id(label) for label in LABELS]
    likelihoods = engine().score(query, ITEMS, algorithm=algorithm).logprobs
    by_label = engine().score(query, ITEMS, label_token_ids=labels, algorithm=algorithm).logprobs
    for index, item in enumerate(ITEMS):
        expected_sum, expected_labels = torch_logprobs(
            *map(tuple, (encode(query), encode(item), labels))
        )
        assert abs(likelihoods[index] - expected_sum) <= 1e-3
        assert np.abs(by_label[index] - expected_labels).max() <= 1e-3


def test_item_first_equals_transformers():
    """item_first must never be ignored: it scores item + query, so the likelihood is log P(query | item)."""
    encode = engine().model.tokenizer.encode
    labels = [engine().label_id(label) for label in LABELS]
    query = QUERIES["short"]
    swapped = engine().score(query, ITEMS, item_first=True)
    by_label = engine().score(query, ITEMS, label_token_ids=labels, item_first=True)
    for index, item in enumerate(ITEMS):
        expected_sum, expected_labels = torch_logprobs(
            *map(tuple, (encode(item), encode(query), labels))
        )
        assert abs(swapped.logprobs[index] - expected_sum) <= 1e-3
        assert np.abs(by_label.logprobs[index] - expected_labels).max() <= 1e-3
    assert swapped.num_tokens.tolist() == [len(encode(query))] * len(ITEMS)


# Bit for bit: an order of summation that depends on the neighbours adds up to 2e-4 over forty tokens.
@pytest.mark.parametrize("item_first", [False, True], ids=["query first", "item first"])
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_packed_equals_serial(query, item_first):
    labels = [engine().label_id(label) for label in LABELS]
    packed, serial = (
        engine().score(
            query,
            ITEMS,
            labels,
            item_first=item_first,
            algorithm=algorithm,
            return_token_logprobs=True,
        )
        for algorithm in ("packed", "serial")
    )
    np.testing.assert_array_equal(packed.logprobs, serial.logprobs)
    for one, other in zip(packed.token_logprobs, serial.token_logprobs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("query", ["short", "long"])
def test_long_items_score_alike_with_every_algorithm(query):
    """Rounding adds up over an item's tokens; up to 80 of them it must stay below what anybody sees."""
    encode = engine().model.tokenizer.encode
    tokens = [encode(item) for item in LONG_ITEMS]
    assert [len(item) for item in tokens] == sorted(len(item) for item in tokens)
    assert len(tokens[-1]) == 80
    serial = engine().score(QUERIES[query], tokens, algorithm="serial").logprobs
    for algorithm in ("packed", "packed_extend", "prefill_extend"):
        scores = engine().score(QUERIES[query], tokens, algorithm=algorithm).logprobs
        assert np.abs(scores - serial).max() <= 1e-4, algorithm
    expected, _ = torch_logprobs(tuple(encode(QUERIES[query])), tuple(tokens[-1]), (0,))
    assert abs(serial[-1] - expected) <= 1e-3


def test_checked_numbers_of_the_model():
    """The four log-likelihoods that were checked by hand when the project began."""
    items = [" Paris", " London", " Berlin", " banana"]
    result = engine().score("The capital of France is", items)
    np.testing.assert_allclose(result.scores, [-0.2581, -4.3844, -6.9207, -17.2379], atol=5e-4)


def test_softmax_over_labels_normalises_only_the_labels():
    labels = [engine().label_id(label) for label in LABELS]
    plain = engine().score(QUERIES["short"], ITEMS, label_token_ids=labels)
    normalised = engine().score(QUERIES["short"], ITEMS, label_token_ids=labels, apply_softmax=True)
    np.testing.assert_allclose(plain.scores, np.exp(plain.logprobs))
    np.testing.assert_allclose(normalised.scores.sum(axis=1), 1.0)
    np.testing.assert_allclose(
        normalised.scores, plain.scores / plain.scores.sum(axis=1, keepdims=True), rtol=1e-6
    )
    np.testing.assert_array_equal(normalised.logprobs, plain.logprobs)


def test_token_ids_and_text_score_alike():
    encode = engine().model.tokenizer.encode
    by_text = engine().score(QUERIES["short"], ITEMS)
    by_tokens = engine().score(encode(QUERIES["short"]), [encode(item) for item in ITEMS])
    np.testing.assert_array_equal(by_text.scores, by_tokens.scores)
    assert by_text.usage == by_tokens.usage
    assert by_text.usage.total_tokens == len(encode(QUERIES["short"])) + sum(
        len(encode(i)) for i in ITEMS
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "", "item_first": True}, "query must hold at least 1 token, got 0"),
        ({"items": []}, "items must hold at least 1 item, got 0"),
        ({"items": [" a", ""]}, r"items\[1\] must hold at least 1 token, got 0"),
        ({"items": [[1, 49_152]]}, r"items\[0\]\[1\] must be in \[0, 49152\), got 49152"),
        ({"query": [-1]}, r"query\[0\] must be in \[0, 49152\), got -1"),
        ({"items": [[1.5]]}, r"items\[0\] must be text or a flat list of token ids"),
        ({"label_token_ids": []}, "label_token_ids must be a flat list of at least 1 token id"),
        ({"label_token_ids": [49_152]}, r"label_token_ids\[0\] must be in \[0, 49152\), got 49152"),
        ({"apply_softmax": True}, "apply_softmax needs labels or label_token_ids"),
        ({"isolation": "none"}, "isolation must be one of"),
        ({"items": " cat"}, "items must be a list of texts or of token lists, got str"),
        ({"items": None}, "items must be a list of texts or of token lists, got NoneType"),
        ({"items": [[[1], [2, 3]]]}, r"items\[0\] must be text or a flat list of token ids"),
        ({"items": ["\udc80"]}, r"items\[0\]: "),
        (
            {"label_token_ids": [[1], [2, 3]]},
            "one list for all items or one for each of the 1, got 2",
        ),
        (
            {"items": [" cat", " dog"], "label_token_ids": [[1]]},
            "one list for all items or one for each of the 2, got 1",
        ),
        ({"label_token_ids": [[1], 2]}, "label_token_ids must be a flat list of at least 1"),
        ({"label_token_ids": [True, 2]}, "label_token_ids must be a flat list of at least 1"),
        ({"isolation": "causal", "item_first": True}, "has no meaning with item_first"),
        ({"isolation": "causal", "items": [[5] * 4000] * 3}, "at most 8192 tokens together"),
        ({"algorithm": "fast"}, "algorithm must be one of"),
        ({"isolation": "causal", "algorithm": "serial"}, "has no meaning with algorithm 'serial'"),
        (
            {"items": [[5] * 8000], "query": [5] * 193},
            "at most 8192 tokens together .* got 193 . 8000",
        ),
    ],
)
def test_bad_input_is_rejected_by_name(arguments, message):
    good = {"query": "The", "items": [" cat"]}
    with pytest.raises(ValueError, match=message):
        engine().score(**{**good, **arguments})


def test_means_are_over_the_tokens_of_each_item():
    encode = engine().model.tokenizer.encode
    result = engine().score(QUERIES["short"], ITEMS)
    lens = [len(encode(item)) for item in ITEMS]
    assert max(lens) > 10
    assert result.num_tokens.tolist() == lens
    np.testing.assert_allclose(result.mean_logprobs, result.scores / lens)
    by_label = engine().score(QUERIES["short"], ITEMS, label_token_ids=[1])
    with pytest.raises(ValueError, match="mean_logprobs is for likelihoods"):
        by_label.mean_logprobs  # noqa: B018


@pytest.mark.parametrize("item_first", [False, True])
def test_bos_begins_a_text_once(item_first):
    """BOS belongs to whatever comes first, is added to text only, and never to what follows."""
    tokenizer = dataclasses.replace(engine().model.tokenizer, bos_id=1, adds_bos=True)
    scorer = ScoringEngine(dataclasses.replace(engine().model, tokenizer=tokenizer))
    encode = tokenizer.encode
    query, items = QUERIES["short"], [" Paris", " London"]
    if item_first:
        tokens = encode(query), [[1, *encode(item)] for item in items]
    else:
        tokens = [1, *encode(query)], [encode(item) for item in items]
    by_text = scorer.score(query, items, item_first=item_first)
    by_tokens = scorer.score(*tokens, item_first=item_first)
    np.testing.assert_array_equal(by_text.scores, by_tokens.scores)


@pytest.mark.parametrize("algorithm", ["packed", "packed_extend"])
def test_joint_tokenisation_scores_what_a_whole_text_has(algorithm):
    """A word may cross the border, in some items of a list and not in others: docs/scoring.md has this example."""
    encode = engine().model.tokenizer.encode
    query, items = "unbeliev", ["able", " stories", "able story"]
    alone, texts = encode(query), [encode(query + item) for item in items]
    borders = [2, 3, 2]  # how far a text is the query alone
    for text, border in zip(texts, borders, strict=True):
        assert text[:border] == alone[:border]
        assert text[border : border + 1] != alone[border : border + 1]
    result = engine().score(
        query, items, tokenization="joint", algorithm=algorithm, return_token_logprobs=True
    )
    for index, (text, border) in enumerate(zip(texts, borders, strict=True)):
        expected, _ = torch_logprobs(tuple(text[:border]), tuple(text[border:]), (0,))
        assert abs(result.logprobs[index] - expected) <= 1e-3
        assert result.num_tokens[index] == result.token_logprobs[index].size == len(text) - border
    labels = [engine().label_id(label) for label in LABELS]
    by_label = engine().score(query, items, labels, tokenization="joint", algorithm=algorithm)
    for row, text in zip(by_label.logprobs, texts, strict=True):
        _, expected_labels = torch_logprobs(tuple(text[:2]), tuple(text[2:]), tuple(labels))
        assert np.abs(row - expected_labels).max() <= 1e-3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"item_first": True}, "invalid_tokenization"),
        ({"items": [[1, 2]]}, "mixed_input_types"),
        ({"items": ["able", ""]}, "empty_item"),
        ({"items": ["able", "\x04"]}, "empty_item"),  # which the vocabulary cannot spell
        ({"items": []}, "empty_items"),
        ({"query": "\x04"}, "empty_query"),
        ({"query": "u", "items": ["nbelievable"]}, "empty_query"),
        ({"tokenization": "none"}, "invalid_tokenization"),
    ],
)
def test_what_cannot_be_tokenised_jointly_is_rejected(arguments, code):
    with pytest.raises(RequestError) as caught:
        engine().score(
            **{"query": "unbeliev", "items": ["able"], "tokenization": "joint", **arguments}
        )
    assert caught.value.code == code


def test_progress_is_told_at_the_start_and_after_each_pack():
    told = []
    scorer = ScoringEngine(engine().model, pack_tokens=20, chunk_tokens=20)
    scorer.score(
        QUERIES["short"], ITEMS, on_progress=lambda done, total: told.append((done, total))
    )
    assert told[0] == (0, len(ITEMS))
    assert told[-1] == (len(ITEMS), len(ITEMS))
    assert len(told) > 2
    assert told == sorted(told)


def test_engine_arguments_are_checked():
    with pytest.raises(ValueError, match=r"attention must be one of .* got 'bogus'"):
        ScoringEngine(engine().model, attention="bogus")
    with pytest.raises(ValueError, match="pack_tokens must be at least 1, got 0"):
        ScoringEngine(engine().model, pack_tokens=0)
