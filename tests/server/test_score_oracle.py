"""Scores over HTTP against an independent oracle: the same model in transformers.

The tests whose names begin with test_score_ are those that SGLang's two servers have for this route.
"""

import concurrent.futures
import time

import numpy as np
import pytest

from api_answers import code_of, likelihoods
from http_oracle import VOCAB, log_probabilities, oracle_labels, oracle_likelihood, tokens_of
from isoprefill.request.softmax import softmax

pytest_plugins = ["server_fixtures"]


def test_score_simple(server):
    answer = server.score(query="abc", items=["x"], label_token_ids=[1, 2])
    np.testing.assert_allclose(
        np.log(answer["scores"]), [oracle_labels("abc", "x", [1, 2])], atol=1e-3
    )


def test_score_consistency(server):
    """Against transformers, for likelihoods and for labels, with and without softmax."""
    query, items, labels = "The sky is", [" blue", " made of cheese", "!"], [5, 77, 256]
    expected = np.array([oracle_labels(query, item, labels) for item in items])
    answer = server.score(query=query, items=items, label_token_ids=labels)
    np.testing.assert_allclose(np.log(answer["scores"]), expected, atol=1e-3)
    answer = server.score(query=query, items=items, label_token_ids=labels, apply_softmax=True)
    normalised = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    np.testing.assert_allclose(answer["scores"], normalised, atol=1e-4)
    expected = [oracle_likelihood(query, item) for item in items]
    np.testing.assert_allclose(
        likelihoods(server.score(query=query, items=items)), expected, atol=1e-3
    )


def test_score_multi_prefix(server):
    """Different queries, one after another, with the same items."""
    for query in ("a", "bb", "a longer query than those"):
        answer = server.score(query=query, items=["x", "yz"])
        expected = [oracle_likelihood(query, item) for item in ("x", "yz")]
        np.testing.assert_allclose(likelihoods(answer), expected, atol=1e-3)


def test_score_batch(server):
    items = [f"item {number}" for number in range(10)]
    answer = server.score(query="abc", items=items, label_token_ids=[1, 2])
    expected = [oracle_labels("abc", item, [1, 2]) for item in items]
    np.testing.assert_allclose(np.log(answer["scores"]), expected, atol=1e-3)


def test_score_batch_multi_prefix(server):
    """Different queries at once; each gets its own scores."""
    queries = [f"query {number} " * (number + 1) for number in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda query: server.score(query=query, items=["x", "y"]), queries))
    for query, answer in zip(queries, answers, strict=True):
        expected = [oracle_likelihood(query, item) for item in ("x", "y")]
        np.testing.assert_allclose(likelihoods(answer), expected, atol=1e-3)


def test_score_item_first_false(server):
    answer = server.score(query="abc", items=["x"], item_first=False)
    assert likelihoods(answer) == likelihoods(server.score(query="abc", items=["x"]))


def test_score_item_first_true(server):
    """item + query is scored: labels follow the query, a likelihood is log P(query | item)."""
    answer = server.score(query="abc", items=["x", "yz"], item_first=True, label_token_ids=[1, 2])
    expected = [oracle_labels(item, "abc", [1, 2]) for item in ("x", "yz")]
    np.testing.assert_allclose(np.log(answer["scores"]), expected, atol=1e-3)
    answer = server.score(query="abc", items=["x", "yz"], item_first=True)
    expected = [oracle_likelihood(item, "abc") for item in ("x", "yz")]
    np.testing.assert_allclose(likelihoods(answer), expected, atol=1e-3)


def test_labels_of_several_tokens(server):
    """For all items and for each, normalised or not, with how many tokens each label has."""
    items, labels = ["x", "yz"], ["very good", "very bad", "b"]
    expected = np.array([[oracle_likelihood("abc" + i, label) for label in labels] for i in items])
    answer = server.score(query="abc", items=items, labels=labels, return_logprob=True)
    np.testing.assert_allclose(answer["logprobs"], expected, atol=1e-3)
    np.testing.assert_allclose(answer["scores"], np.exp(answer["logprobs"]))
    assert answer["num_label_tokens"] == [[9, 8, 1]] * 2
    assert answer["usage"]["prompt_tokens"] == 6
    answer = server.score(
        query="abc", items=items, labels=labels, apply_softmax=True, temperature=9
    )
    np.testing.assert_allclose(answer["scores"], softmax(expected, 9), atol=1e-4)
    answer = server.score(
        query="abc", items=items, labels=[["ab"], ["c", "de"]], return_logprob=True
    )
    assert answer["num_label_tokens"] == [[2], [1, 2]]
    assert answer["logprobs"][0] == pytest.approx([oracle_likelihood("abcx", "ab")], abs=1e-3)
    assert answer["logprobs"][1][1] == pytest.approx(oracle_likelihood("abcyz", "de"), abs=1e-3)
    answer = server.score(query="abc", items=items, labels=labels, top_n=1, return_logprob=True)
    assert answer["indices"] == [int(expected[:, 0].argmax())]
    assert "num_label_tokens" not in server.score(query="abc", items=items, labels=["a", "b"])


def test_score_return_format(server):
    began = int(time.time())
    response = server.post("/v1/score", query="abc", items=["x", "yz"], label_token_ids=[1, 2, 3])
    answer = response.json()
    assert answer["object"] == "scoring"
    assert answer["model"] == "tiny"
    assert began <= answer["created"] <= time.time()
    assert answer["id"] == response.headers["x-request-id"]
    assert [len(row) for row in answer["scores"]] == [3, 3]
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (6, 0, 6)
    answer = server.score(query="abc", items=["x", "yz"])
    assert [set(one) for one in answer["scores"]] == [{"index", "score", "num_tokens"}] * 2
    assert [one["num_tokens"] for one in answer["scores"]] == [1, 2]


def test_score_numerical_stability(server):
    """Long items have tiny probabilities; nothing becomes 0, NaN or null on the way."""
    item = "xyzzy " * 60
    answer = server.score(query="abc", items=[item])
    assert likelihoods(answer)[0] == pytest.approx(oracle_likelihood("abc", item), abs=0.05)
    assert likelihoods(answer)[0] < -700  # exp() of it is 0 in float64
    every = list(range(VOCAB))
    answer = server.score(query="abc", items=[item], label_token_ids=every, apply_softmax=True)
    assert sum(answer["scores"][0]) == pytest.approx(1.0)
    cold = server.score(
        query="abc", items=["x"], label_token_ids=every, apply_softmax=True, temperature=1e-300
    )
    assert sorted(cold["scores"][0])[-1] == pytest.approx(1.0)


def test_score_large_batch(server):
    items = [f"{number:03}" for number in range(300)]
    answer = server.score(query="abc", items=items)
    assert len(answer["scores"]) == 300
    for index in (0, 137, 299):
        expected = oracle_likelihood("abc", items[index])
        assert answer["scores"][index]["score"] == pytest.approx(expected, abs=1e-3)


def test_score_edge_cases(server):
    """One token each; the same item twice; a single item as a string; text beyond ASCII."""
    answer = server.score(query="a", items=["b", "b"])
    assert likelihoods(answer)[0] == pytest.approx(likelihoods(answer)[1], abs=1e-5)
    assert likelihoods(server.score(query="a", items="b"))[0] == pytest.approx(
        likelihoods(answer)[0], abs=1e-4
    )
    answer = server.score(query="日本語 🎌", items=["é\u0301", "\u200f", "\x00"])
    expected = [oracle_likelihood("日本語 🎌", item) for item in ("é\u0301", "\u200f", "\x00")]
    np.testing.assert_allclose(likelihoods(answer), expected, atol=1e-3)
    too_long = server.post("/v1/score", query="a" * 512, items=["b"])
    assert (too_long.status_code, code_of(too_long)) == (400, "context_length_exceeded")


def test_score_parallel_requests(server):
    """Many clients at once: each gets the scores that it gets alone."""
    bodies = [
        {"query": f"query {number % 5}", "items": [f"{number}", "yz"]} for number in range(40)
    ]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda body: server.score(**body), bodies))
    for body, answer in list(zip(bodies, together, strict=True))[::7]:
        np.testing.assert_allclose(
            likelihoods(answer), likelihoods(server.score(**body)), atol=1e-4
        )


def test_score_text_input(server):
    answer = server.score(query="abc", items=["x", "yz"])
    expected = [oracle_likelihood("abc", item) for item in ("x", "yz")]
    np.testing.assert_allclose(likelihoods(answer), expected, atol=1e-3)


def test_score_token_input(server):
    """Token ids score like the text that they are the tokens of."""
    answer = server.score(query=tokens_of("abc"), items=[tokens_of("x"), tokens_of("yz")])
    assert likelihoods(answer) == likelihoods(server.score(query="abc", items=["x", "yz"]))


def test_score_batch_request(server):
    answer = server.score(
        query=[1, 2, 3], items=[[4], [5, 6], [7, 8, 9]], label_token_ids=[1, 2], apply_softmax=True
    )
    assert np.sum(answer["scores"], axis=1) == pytest.approx([1.0, 1.0, 1.0])


@pytest.mark.parametrize("number", [1, 2, 4, 8])
def test_score_batch_handling(server, number):
    items = ["same item", *("another" * index for index in range(1, number))]
    score = likelihoods(server.score(query="abc", items=items))[0]
    assert score == pytest.approx(oracle_likelihood("abc", "same item"), abs=1e-3)


def test_score_request_construction(server):
    """Nothing is decoded, the query is computed once for all items, and only what is asked for comes back."""
    before = server.metric("tokens_total"), server.metric("batch_tokens_sum")
    answer = server.score(query="abcdefgh", items=["x"] * 20, label_token_ids=[1])
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["usage"]["total_tokens"] == 8 + 20
    assert server.metric("tokens_total") - before[0] == 28
    assert server.metric("batch_tokens_sum") - before[1] == 28
    assert np.shape(answer["scores"]) == (20, 1)
    assert "logprobs" not in answer


def test_labels_as_text_are_their_tokens(server):
    by_text = server.score(query="abc", items=["x", "y"], labels=["a", "b"])
    by_id = server.score(
        query="abc", items=["x", "y"], label_token_ids=[*tokens_of("a"), *tokens_of("b")]
    )
    assert by_text["scores"] == by_id["scores"]


def test_each_item_may_have_its_own_labels(server):
    lists = [[1, 2, 3], [4]]
    answer = server.score(query="abc", items=["x", "yz"], label_token_ids=lists)
    for row, item, labels in zip(answer["scores"], ("x", "yz"), lists, strict=True):
        np.testing.assert_allclose(np.log(row), oracle_labels("abc", item, labels), atol=1e-3)
    softmax = server.score(
        query="abc", items=["x", "yz"], label_token_ids=lists, apply_softmax=True
    )
    assert [sum(row) for row in softmax["scores"]] == pytest.approx([1.0, 1.0])


def test_temperature_divides_the_logarithms(server):
    logprobs = oracle_labels("abc", "x", [1, 2]) / 0.25
    answer = server.score(
        query="abc", items=["x"], label_token_ids=[1, 2], apply_softmax=True, temperature=0.25
    )
    expected = np.exp(logprobs - logprobs.max())
    np.testing.assert_allclose(answer["scores"][0], expected / expected.sum(), atol=1e-3)


def test_logarithms_come_on_request(server):
    answer = server.score(
        query="abc",
        items=["x", "yz"],
        label_token_ids=[1, 2],
        apply_softmax=True,
        temperature=2.0,
        return_logprob=True,
        return_token_logprobs=True,
        return_item_logprobs=True,
    )
    expected = [oracle_labels("abc", item, [1, 2]) for item in ("x", "yz")]
    np.testing.assert_allclose(answer["logprobs"], expected, atol=1e-3)
    assert answer["token_logprobs"] == answer["logprobs"]
    plain = server.score(query="abc", items=["x", "yz"], return_logprob=True)
    assert plain["logprobs"] == likelihoods(plain)
    assert [len(one) for one in answer["item_logprobs"]] == [1, 2]
    assert sum(answer["item_logprobs"][1]) == pytest.approx(
        oracle_likelihood("abc", "yz"), abs=1e-3
    )


def test_token_logprobs_follow_each_items_own_labels(server):
    """In their order, as SGLang has them: a client reads them by the labels' places."""
    labels = [[7, 3, 5], [2]]
    answer = server.score(
        query="abc",
        items=["x", "yz"],
        label_token_ids=labels,
        temperature=1.0,
        return_token_logprobs=True,
    )
    for row, item, own in zip(answer["token_logprobs"], ("x", "yz"), labels, strict=True):
        np.testing.assert_allclose(row, oracle_labels("abc", item, own), atol=1e-3)


def test_an_empty_query_is_bos_alone(server):
    """Something must predict an item's first token, and nothing else is in front of it."""
    bos, item = tokens_of("<s>"), tokens_of("xyz")
    after = log_probabilities(bos + item)
    expected = sum(after[place, token] for place, token in enumerate(item))
    for query in ({}, {"query": ""}, {"query": None}, {"query": "", "tokenization": "joint"}):
        answer = server.score(**query, items=["xyz"])
        assert likelihoods(answer) == pytest.approx([expected], abs=1e-3)
    for query in ({}, {"query": []}, {"query": ""}):
        assert likelihoods(server.score(**query, items=[item])) == likelihoods(answer)


def test_top_n_ranks(server):
    items = ["x", "yz", "q"]
    every = likelihoods(server.score(query="abc", items=items))
    best = server.score(query="abc", items=items, top_n=2)
    assert best["indices"] == np.argsort(np.negative(every))[:2].tolist()
    assert [one["index"] for one in best["scores"]] == best["indices"]
    assert [one["score"] for one in best["scores"]] == sorted(every, reverse=True)[:2]


def test_joint_tokenisation(server):
    """A tokenizer of bytes has no words to cross a border: both ways agree."""
    joint = server.score(query="abc", items=["x", "yz"], tokenization="joint")
    assert likelihoods(joint) == pytest.approx(
        likelihoods(server.score(query="abc", items=["x", "yz"])), abs=1e-5
    )


def test_causal_isolation_is_on_request_only(server):
    alone = likelihoods(server.score(query="abc", items=["x", "yz"]))
    seen = server.score(query="abc", items=["x", "yz"], isolation="causal")
    assert seen["isolation"] == "causal"
    assert likelihoods(seen)[1] == pytest.approx(oracle_likelihood("abcx", "yz"), abs=1e-3)
    assert abs(likelihoods(seen)[1] - alone[1]) > 1e-3


def test_a_tiny_temperature_leaves_the_likeliest_label():
    """Dividing before the largest is subtracted would overflow to nothing but zeros."""
    assert softmax(np.array([[-5.0, -1.0, -np.inf]]), 1e-310).tolist() == [[0.0, 1.0, 0.0]]
