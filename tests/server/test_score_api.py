"""The HTTP API: scores against an independent oracle, every code of the error contract, and the clients people use.

The tests whose names begin with test_score_ are those that SGLang's two servers have for this route.
"""

import asyncio
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import sys
import threading
import time

import httpx
import hypothesis
import msgspec
import numpy as np
import openai
import pytest
import schemathesis
import torch
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

import isoprefill.server.errors
import small_models
from isoprefill.models.source import load_tokenizer
from isoprefill.request.errors import RequestError
from isoprefill.request.labels import LabelSets
from isoprefill.request.preparer import Preparer
from isoprefill.request.softmax import softmax
from isoprefill.server import launch, routes_rerank
from isoprefill.server.api_models import RerankRequest
from isoprefill.server.dispatch import Dispatcher
from isoprefill.server.errors import ApiError
from isoprefill.server.front_end import make_app
from isoprefill.server.metrics import Metrics
from isoprefill.server.service import Service
from isoprefill.server.settings import EngineSettings, RerankSettings, ServerSettings
from isoprefill.server.supervisor import StartError
from running_server import SERVE, RunningServer, running, running_server

VOCAB = small_models.VOCAB_SIZE
MODEL = small_models.random_model("llama")
RERANK = ("--rerank-yes=y", "--rerank-no=n")
KEY = "a-key-of-our-own"


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> str:
    return str(small_models.save_directory(MODEL, tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def server(model_directory):
    with running_server(f"--model={model_directory}", "--warmup-tokens=", *RERANK) as one:
        yield one


@pytest.fixture(scope="module")
def strict_server(model_directory):
    """A server with a key, white space around it as in a file, small limits, and no likelihoods."""
    flags = [
        f"--model={model_directory}",
        "--warmup-tokens=",
        "--require-labels",
        "--rate-limit=0.001",
        "--rate-burst=60",
        "--max-body-bytes=20000",
        "--max-items=5",
        "--max-item-tokens=50",
        "--max-request-tokens=100",
        "--max-labels=3",
        "--read-timeout=1",
        "--delimiter=hidden",
        "--delimiter-token-id=0",
    ]
    with running_server(*flags, ISOPREFILL_API_KEY=f" {KEY}\n") as one:
        yield one


@pytest.fixture(scope="module")
def smollm2():
    with running_server("--warmup-tokens=") as one:
        yield one


def tokens_of(text: str) -> list[int]:
    return small_models.byte_tokenizer().encode(text).ids


@torch.no_grad()
def log_probabilities(tokens: list[int]) -> np.ndarray:
    """The oracle: log P of every token of the vocabulary after each of `tokens`, [T, V]."""
    logits = MODEL(torch.tensor([tokens])).logits[0].double()
    return torch.log_softmax(logits, -1).numpy()


def oracle_likelihood(query: str, item: str) -> float:
    first, second = tokens_of(query), tokens_of(item)
    after = log_probabilities(first + second)
    return sum(after[len(first) - 1 + place, token] for place, token in enumerate(second))


def oracle_labels(query: str, item: str, labels: list[int]) -> np.ndarray:
    return log_probabilities(tokens_of(query + item))[-1, labels]


def likelihoods(answer: dict) -> list[float]:
    assert [one["index"] for one in answer["scores"]] == list(range(len(answer["scores"])))
    return [one["score"] for one in answer["scores"]]


# The tests of SGLang's servers


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


def test_score_with_empty_label(server):
    response = server.post("/v1/score", query="abc", items=["x"], label_token_ids=[])
    assert (response.status_code, code_of(response)) == (400, "empty_label_token_ids")


def test_score_with_invalid_tokens(server):
    response = server.post("/v1/score", query="abc", items=["x"], label_token_ids=[VOCAB])
    assert (response.status_code, code_of(response)) == (422, "token_id_exceeds_vocab")


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


# What ours has beyond that


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
        return_logprob=True,
        return_token_logprobs=True,
    )
    expected = [oracle_labels("abc", item, [1, 2]) for item in ("x", "yz")]
    np.testing.assert_allclose(answer["logprobs"], expected, atol=1e-3)
    plain = server.score(query="abc", items=["x", "yz"], return_logprob=True)
    assert plain["logprobs"] == likelihoods(plain)
    assert [len(one) for one in answer["token_logprobs"]] == [1, 2]
    assert sum(answer["token_logprobs"][1]) == pytest.approx(
        oracle_likelihood("abc", "yz"), abs=1e-3
    )


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


def test_model_may_be_called_by_its_name_or_default(server):
    for name in ("tiny", "default"):
        assert server.score(query="a", items=["b"], model=name)["model"] == "tiny"


def test_rerank_orders_documents(server):
    """P(yes) / (P(yes) + P(no)) after the prompt, one document not seeing the others."""
    documents = ["first", {"text": "second one"}, "third"]
    answer = server.post("/v1/rerank", query="abc", documents=documents, top_n=2).json()
    before, after = RerankSettings().template.split("{document}")
    expected = []
    for text in ("first", "second one", "third"):
        prompt = before.replace("{query}", "abc") + text + after
        yes, no = log_probabilities(tokens_of(prompt))[-1, tokens_of("yn")]
        expected.append(1 / (1 + np.exp(no - yes)))
    order = np.argsort(np.negative(expected))[:2].tolist()
    assert [one["index"] for one in answer["results"]] == order
    for one in answer["results"]:
        assert one["relevance_score"] == pytest.approx(expected[one["index"]], abs=1e-3)
        assert one["document"]["text"] == ["first", "second one", "third"][one["index"]]
    bare = server.post("/v2/rerank", query="abc", documents=["a"], return_documents=False).json()
    assert set(bare["results"][0]) == {"index", "relevance_score"}


def test_rerank_cuts_documents_and_ignores_what_other_services_know(server):
    cut, whole = (
        server.post("/v1/rerank", query="abc", documents=[text], **extra).json()["results"][0]
        for text, extra in (
            ("abcdef", {"max_tokens_per_doc": 3, "truncate": "END", "rank_fields": ["text"]}),
            ("abc", {}),
        )
    )
    assert cut["relevance_score"] == whole["relevance_score"]


def test_models_health_and_readiness(server):
    listed = httpx.get(f"{server.url}/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]
    assert listed["data"][0]["max_model_len"] == 512
    assert httpx.get(f"{server.url}/v1/models/tiny").json() == listed["data"][0]
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/ready").json() == {"status": "ready"}
    for path in ("/health", "/ready"):
        assert httpx.head(server.url + path).status_code == 200


def test_metrics_count(server):
    before = {
        name: server.metric(name)
        for name in ("items_total", "batch_seconds_count", "algorithm_total")
    }
    server.score(query="abc", items=["x", "yz"])
    server.post("/v1/score", query="abc", items=[])
    assert server.metric("items_total") == before["items_total"] + 2
    assert server.metric("algorithm_total", algorithm="packed") >= 1
    assert server.metric("batch_seconds_count") == before["batch_seconds_count"] + 1
    assert server.metric("http_requests_total", route="/v1/score", code="empty_items") >= 1
    assert server.metric("compilations_total") > 0
    assert server.metric("queue_requests") == 0
    text = httpx.get(f"{server.url}/metrics").text
    for name in ("batch_fill_ratio_bucket", "prefix_cache_hit_tokens_total", "queue_tokens"):
        assert f"isoprefill_{name}" in text


def test_request_id_is_the_clients_if_it_is_a_plain_one(server):
    for sent, kept in (("abc-123", True), ("two words", False), ("x" * 129, False)):
        response = httpx.post(
            f"{server.url}/v1/score",
            json={"query": "a", "items": ["b"]},
            headers={"x-request-id": sent},
        )
        assert (response.headers["x-request-id"] == sent) is kept
        assert response.json()["id"] == response.headers["x-request-id"]


def test_the_log_has_ids_and_never_content(server):
    secret = "Xylophone"
    answer = server.score(query=secret, items=[secret])
    server.post("/v1/score", query=secret, items=[secret], label_token_ids=secret)
    httpx.get(f"{server.url}/{secret}?{secret}")
    log = "".join(server.log_text)
    assert answer["id"] in log
    assert secret not in log


def test_the_front_end_never_imports_jax(server):
    """Whatever routes have run: its process must not touch the device."""
    server.score(query="abc", items=["x"])
    mapped = pathlib.Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "numpy" in mapped
    assert "jaxlib" not in mapped
    assert "jaxlib" in pathlib.Path(f"/proc/{server.scheduler_pid}/maps").read_text()


# Errors


def code_of(response: httpx.Response) -> str:
    """The code of an error in OpenAI's shape."""
    assert set(response.json()) == {"error"}, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    status, kind = isoprefill.server.errors.CODES[error["code"]]
    assert (response.status_code, error["type"]) == (status, kind)
    assert error["message"]
    return error["code"]


GOOD = {"query": "abc", "items": ["x"]}
# name: what is added to a good body (... takes a field away), the code, and the field that is named
BAD_BODIES = {
    "no query": ({"query": ...}, "missing_query", "query"),
    "null query": ({"query": None}, "missing_query", "query"),
    "no items": ({"items": ...}, "missing_items", "items"),
    "softmax without labels": ({"apply_softmax": True}, "missing_label_token_ids", "label_token_ids"),
    "empty query": ({"query": ""}, "empty_query", "query"),
    "no tokens in the query": ({"query": [], "items": [[1]]}, "empty_query", "query"),
    "empty list": ({"items": []}, "empty_items", "items"),
    "empty item": ({"items": ["a", "b", ""]}, "empty_item", "items[2]"),
    "empty single item": ({"items": ""}, "empty_item", "items[0]"),
    "empty item of tokens": ({"query": [1], "items": [[1], []]}, "empty_item", "items[1]"),
    "empty labels": ({"label_token_ids": []}, "empty_label_token_ids", "label_token_ids"),
    "an item's empty labels": ({"label_token_ids": [[]]}, "empty_label_token_ids", "label_token_ids[0]"),
    "empty text labels": ({"labels": []}, "empty_label_token_ids", "labels"),
    "negative label": ({"label_token_ids": [1, -1]}, "negative_token_id", "label_token_ids[1]"),
    "negative token": ({"query": [1], "items": [[2, -5]]}, "negative_token_id", "items[0][1]"),
    "lists of labels": ({"label_token_ids": [[1], [2]]}, "label_count_mismatch", "label_token_ids"),
    "one list of two": (
        {"items": ["x", "y"], "label_token_ids": [[1]]}, "label_count_mismatch", "label_token_ids"
    ),
    "one list of texts of two": (
        {"items": ["x", "y"], "labels": [["a"]]}, "label_count_mismatch", "label_token_ids"
    ),
    "query is a number": ({"query": 7}, "invalid_query_type", "query"),
    "query is an object": ({"query": {}}, "invalid_query_type", "query"),
    "items is a number": ({"items": 7}, "invalid_items_type", "items"),
    "items is flat": ({"query": [1], "items": [1, 2]}, "invalid_items_type", "items[0]"),
    "item is null": ({"items": ["a", None]}, "invalid_items_type", "items[1]"),
    "text and tokens": ({"query": "a", "items": [[1]]}, "mixed_input_types", "items"),
    "text and token items": ({"items": ["a", [1]]}, "mixed_input_types", "items[1]"),
    "labels are text": ({"label_token_ids": "yes"}, "invalid_label_token_ids_type", "label_token_ids"),
    "labels are mixed": ({"label_token_ids": [1, [2]]}, "invalid_label_token_ids_type", "label_token_ids"),
    "label is text": ({"label_token_ids": ["1"]}, "invalid_token_id_type", "label_token_ids[0]"),
    "label is a float": ({"label_token_ids": [1.0]}, "invalid_token_id_type", "label_token_ids[0]"),
    "label is a boolean": ({"label_token_ids": [True]}, "invalid_token_id_type", "label_token_ids[0]"),
    "token is text": ({"query": [1, "2"], "items": [[1]]}, "invalid_token_id_type", "query[1]"),
    "softmax is text": ({"apply_softmax": "yes"}, "invalid_apply_softmax_type", "apply_softmax"),
    "item_first is a number": ({"item_first": 1}, "invalid_item_first_type", "item_first"),
    "labels twice": ({"labels": ["a"], "label_token_ids": [1]}, "conflicting_labels", "labels"),
    "label of two tokens": ({"labels": ["ab"]}, "invalid_label", "labels[0]"),
    "labels are numbers": ({"labels": [1]}, "invalid_labels_type", "labels"),
    "temperature 0": ({"temperature": 0}, "invalid_temperature", "temperature"),
    "temperature alone": ({"temperature": 0.5}, "invalid_temperature", "temperature"),
    "no such isolation": ({"isolation": "some"}, "invalid_isolation", "isolation"),
    "no such tokenization": ({"tokenization": "some"}, "invalid_tokenization", "tokenization"),
    "top_n 0": ({"top_n": 0}, "invalid_top_n", "top_n"),
    "user is a number": ({"user": 5}, "invalid_parameter_type", "user"),
    "misspelt": ({"aply_softmax": True}, "unknown_parameter", "apply_softmax"),
    "unknown": ({"seed": 1}, "unknown_parameter", None),
    "another model": ({"model": "gpt-9"}, "model_not_found", "model"),
    "unknown label": ({"label_token_ids": [VOCAB]}, "token_id_exceeds_vocab", "label_token_ids[0]"),
    "unknown token": ({"query": [VOCAB], "items": [[1]]}, "token_id_exceeds_vocab", "query[0]"),
    "huge token": ({"query": [1], "items": [[2**70]]}, "token_id_exceeds_vocab", "items[0][0]"),
    "too long": ({"items": ["a", "b" * 512]}, "context_length_exceeded", "items[1]"),
    "joint and too long": (
        {"items": ["a", "b" * 512], "tokenization": "joint"}, "context_length_exceeded", "items[1]"
    ),
    "joint and a query too long": (
        {"query": "a" * 513, "tokenization": "joint"}, "context_length_exceeded", "query"
    ),
    "causal and too long": (
        {"query": "a" * 200, "items": ["b" * 200, "c" * 200], "isolation": "causal"},
        "context_length_exceeded",
        "items",
    ),
    "many labels for many items": (
        {"items": ["b"] * 2000, "label_token_ids": [0] * 1000}, "too_many_labels", "label_token_ids"
    ),
    "label lists that are small but for one": (
        {"label_token_ids": [[0] * 1000, *[[0]] * 2000]}, "too_many_labels", "label_token_ids"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "code", "param"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_body(server, change, code, param):
    body = {name: value for name, value in (GOOD | change).items() if value is not ...}
    response = server.post("/v1/score", **body)
    assert code_of(response) == code, response.text
    assert response.json()["error"]["param"] == param


def test_a_label_is_refused_without_being_repeated(server):
    response = server.post(
        "/v1/score", **GOOD | {"label_token_ids": None, "labels": ["a", "a secret"]}
    )
    assert code_of(response) == "invalid_label"
    assert "labels[1]" in response.text
    assert "secret" not in response.text


def test_an_unknown_field_is_answered_with_known_ones(server):
    """With the one that was meant, or with all; never with the name that was sent."""
    near = server.post("/v1/score", **GOOD, tempereture=0.5).json()["error"]["message"]
    assert near.endswith(": did you mean temperature?")
    for field in ("secret", "secret" * 100_000):
        far = server.post("/v1/score", **GOOD, **{field: 1}).json()["error"]["message"]
        assert "It knows query, items, label_token_ids, " in far
        assert "secret" not in far


def test_a_tiny_temperature_leaves_the_likeliest_label():
    """Dividing before the largest is subtracted would overflow to nothing but zeros."""
    assert softmax(np.array([[-5.0, -1.0, -np.inf]]), 1e-310).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": "a"}, "missing_documents"),
        ({"query": "a", "documents": []}, "empty_documents"),
        ({"query": "a", "documents": ["a", ""]}, "empty_document"),
        ({"query": "a", "documents": [{"text": ""}]}, "empty_document"),
        ({"query": "a", "documents": [5]}, "invalid_documents_type"),
        ({"query": "a", "documents": [{"title": "a"}]}, "invalid_documents_type"),
        ({"query": "", "documents": ["a"]}, "empty_query"),
        ({"query": [1], "documents": ["a"]}, "invalid_query_type"),
        ({"query": "a", "documents": ["a"], "top_n": "all"}, "invalid_top_n"),
        ({"query": "a", "documents": ["a"], "model": "other"}, "model_not_found"),
        ({"query": "a", "documents": ["a" * 600]}, "context_length_exceeded"),
    ],
)
def test_bad_rerank_body(server, body, code):
    assert code_of(server.post("/v1/rerank", **body)) == code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"query": NaN, "items": ["a"]}', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"query": "\\ud800", "items": ["a"]}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[]", "invalid_body_type"),
        (b'"text"', "invalid_body_type"),
    ],
)
def test_bad_json(server, content, code):
    response = httpx.post(
        f"{server.url}/v1/score", content=content, headers={"content-type": "application/json"}
    )
    assert code_of(response) == code


def test_routes_methods_and_media_types(server):
    assert code_of(httpx.get(f"{server.url}/v1/scores")) == "not_found"
    assert code_of(httpx.get(f"{server.url}/v1/score")) == "method_not_allowed"
    assert code_of(httpx.get(f"{server.url}/v1/models/other")) == "model_not_found"
    text = httpx.post(
        f"{server.url}/v1/score", content=b"{}", headers={"content-type": "text/plain"}
    )
    assert code_of(text) == "unsupported_media_type"


def rerank_request(template: str, document: str):
    """What a rerank request with SmolLM2 becomes, and its tokenizer."""
    rerank = RerankSettings(template=template, relevant="a", irrelevant="b")
    service = unconnected_service("smollm2-135m", rerank)
    body = RerankRequest(query="fruit", documents=[document])
    tokenizer = service.tokenizer
    preparer = Preparer(tokenizer, tokenizer.vocab_size, 8192, 16_384)
    return routes_rerank._prepare(body, preparer, service.settings, ""), tokenizer


def test_a_document_is_tokenised_as_in_the_whole_prompt():
    """White space before it is its first token's: a cut in between would give tokens that no model was trained with."""
    template = RerankSettings().template
    request, tokenizer = rerank_request(template, "an apple")
    whole = tokenizer.encode(template.format(query="fruit", document="an apple"))
    assert [*request.query.tolist(), *request.items[0].tolist()] == whole


def test_a_document_is_not_cut_inside_a_character():
    """What is left of a character would become U+FFFD, which the document does not have."""
    tokenizer = load_tokenizer("smollm2-135m")
    text = "an 🂡 and a 🂱"
    tokens = tokenizer.encode(text)
    inside = [n for n in range(len(tokens)) if tokenizer.decode(tokens[:n]).endswith("\ufffd")]
    assert len(inside) >= 2
    cuts = [routes_rerank._beginning(tokenizer, text, n) for n in range(1, len(tokens) + 1)]
    assert all(text.startswith(cut) for cut in cuts)
    assert cuts[-1] == text
    assert "🂡" in cuts[-2], "only what the cut goes through is lost"


def test_a_document_that_is_short_enough_is_left_as_it_is():
    """What the vocabulary cannot spell is not the cut's business."""
    tokenizer = load_tokenizer("smollm2-135m")
    assert routes_rerank._beginning(tokenizer, "a\x04\ufffd", 9) == "a\x04\ufffd"


def test_a_document_without_tokens_is_called_a_document():
    with pytest.raises(RequestError) as refused:
        rerank_request("{query}:{document}", "\x04")
    answer = ApiError.of(refused.value, routes_rerank._ROUTE.items)
    assert (answer.code, answer.param) == ("empty_document", "documents[0]")
    assert answer.message.startswith("documents[0] must")


def test_much_text_is_not_tokenised_on_the_event_loop(model_directory):
    """Else a small body that means much text would keep every other client waiting."""
    threads = []

    class Recorder:
        def labels(self, texts):
            return LabelSets.shared([ord(text) for text in texts])

        def request(self, *args, **kwargs):
            threads.append(threading.current_thread())
            raise RequestError("empty_query", "query")

    service = unconnected_service(model_directory, RerankSettings(relevant="y", irrelevant="n"))
    service.preparer = Recorder()
    joint = {"query": "a" * 1000, "items": ["b"] * 100, "tokenization": "joint"}
    many = {"query": "a", "documents": ["b"] * 4000}
    long = {"query": "a", "items": ["b" * 100_000]}
    short = {"query": "a", "items": ["b"], "tokenization": "joint"}
    sent = ("score", joint), ("rerank", many), ("score", long), ("score", short)
    for path, body in sent:
        assert code_of(ask(service, body, f"/v1/{path}")) == "empty_query"
    assert [one is threading.main_thread() for one in threads] == [False, False, False, True]


@pytest.mark.parametrize("algorithm", ["serial", "packed_extend", "prefill_extend"])
def test_causal_needs_all_items_in_one_prefill(model_directory, algorithm):
    """On a server that scores items apart it would mean nothing, silently."""
    service = unconnected_service(model_directory, algorithm=algorithm)
    assert code_of(ask(service, GOOD | {"isolation": "causal"})) == "invalid_isolation"


def unconnected_service(model: str, rerank: RerankSettings | None = None, **engine) -> Service:
    """A service whose requests get as far as the scheduler, which is not there."""
    settings = ServerSettings(
        engine=EngineSettings(model=model, **engine), rerank=rerank or RerankSettings()
    )
    metrics = Metrics()
    dispatcher = Dispatcher(settings.limits, metrics)
    tokenizer = load_tokenizer(model)
    service = Service(settings, "tiny", tokenizer, metrics, dispatcher, 0)
    service.preparer = Preparer(tokenizer, VOCAB, 512, 512)
    dispatcher.connect(object())  # nothing is sent
    return service


def ask(service, body, path="/v1/score") -> httpx.Response:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post(path, json=body)

    return asyncio.run(post())


def strict_post(server, body, path="/v1/score", **headers) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}", **headers}
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=60)


def test_limits_and_modes_of_a_strict_server(strict_server):
    """Each limit has an error of its own, and the last thing that is inside it is served."""
    labels = {"label_token_ids": [1]}
    cases = [
        ({"query": "a", "items": ["b"]}, "missing_label_token_ids"),
        ({"query": "a", "items": ["b"] * 6} | labels, "too_many_items"),
        ({"query": "a", "items": ["b" * 51]} | labels, "too_many_tokens"),
        ({"query": "a" * 60, "items": ["b" * 41]} | labels, "too_many_tokens"),
        ({"query": "a" * 50, "items": ["b", "c"], "item_first": True} | labels, "too_many_tokens"),
        ({"query": "a", "items": ["b"], "label_token_ids": [1, 2, 3, 4]}, "too_many_labels"),
        ({"query": "a" * 20_000, "items": ["b"]} | labels, "body_too_large"),
        ({"query": [1, 0], "items": [[2]]} | labels, "delimiter_in_text"),
        # 20 kB of text from a body of 5 kB
        ({"query": "a" * 4000, "items": ["b"] * 5, "tokenization": "joint"}, "too_many_tokens"),
    ]
    for body, code in cases:
        assert code_of(strict_post(strict_server, body)) == code
    good = {"query": "a" * 50, "items": ["b" * 50], "label_token_ids": [1, 2, 3]}
    for first in (False, True):
        assert strict_post(strict_server, good | {"item_first": first}).status_code == 200
    rerank = strict_post(strict_server, {"query": "a", "documents": ["b"]}, "/v1/rerank")
    assert code_of(rerank) == "rerank_unavailable"  # " Yes" is four tokens of this model


def test_delimiters_leave_scores_as_they_are(strict_server):
    """Mode "hidden": no item sees a delimiter, so scores are those without any."""
    body = {"query": "abc", "items": ["x", "yz"], "label_token_ids": [1, 2]}
    answer = strict_post(strict_server, body).json()
    expected = [oracle_labels("abc", item, [1, 2]) for item in ("x", "yz")]
    np.testing.assert_allclose(np.log(answer["scores"]), expected, atol=1e-3)


def test_key(strict_server):
    """Without the key nothing under /v1 answers; health, readiness and metrics do."""
    body = {"query": "a", "items": ["b"], "label_token_ids": [1]}
    for sent in ("", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x"):
        response = strict_post(strict_server, body, authorization=sent)
        assert code_of(response) == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert KEY not in response.text
    assert code_of(httpx.get(f"{strict_server.url}/v1/models")) == "invalid_api_key"
    for path in ("/health", "/ready", "/metrics"):
        assert httpx.get(f"{strict_server.url}{path}").status_code == 200
    assert KEY not in "".join(strict_server.log_text)


def test_rate_limit(strict_server):
    """After the burst: 429, and when to come again; whatever address a client claims. The last test of this server."""
    body = {"query": "a", "items": ["b"], "label_token_ids": [1]}
    for number in range(61):
        claimed = {"x-forwarded-for": f"192.0.2.{number}"}
        response = strict_post(strict_server, body, **claimed)
        if response.status_code == 429:
            break
        assert response.status_code == 200
    assert code_of(response) == "rate_limit_exceeded"
    assert 1 <= int(response.headers["retry-after"]) <= 1000
    assert httpx.get(f"{strict_server.url}/health").status_code == 200


def test_before_the_model_is_loaded(model_directory):
    """The port answers at once: alive, not ready, and 503 for what needs the model."""
    server = RunningServer(*SERVE, f"--model={model_directory}")
    try:
        scheduler = server.wait_for_event("scheduler_started")["pid"]
        os.kill(scheduler, signal.SIGSTOP)  # it cannot become ready while we look
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/ready").status_code == 503
        response = server.post("/v1/score", **GOOD)
        assert code_of(response) == "model_not_loaded"
        assert int(response.headers["retry-after"]) >= 1
    finally:
        server.process.kill()  # and the scheduler, stopped or not, ends with it
        os.kill(scheduler, signal.SIGCONT)


def test_a_fault_of_the_engine_is_500_for_whom_it_concerns_and_says_nothing(model_directory):
    """Two requests in one batch, one of which breaks the engine: the other is answered."""
    program = pathlib.Path(__file__).parent.parent / "support" / "faulty_server.py"
    with running(sys.executable, str(program), model_directory) as server:
        bodies = [{"query": [1], "items": [[2, token]]} for token in (13, 3)]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            broken, good = pool.map(lambda body: server.post("/v1/score", **body), bodies)
        assert server.metric("batch_requests_sum") == 2 * server.metric("batch_requests_count")
        assert code_of(broken) == "internal_error"
        assert likelihoods(good.json()) == [-2.0]
        log = "".join(server.log_text)
        assert "RuntimeError" in log
        assert "secret" not in log + broken.text
        assert "File" not in broken.text


BAD_FLAGS = {
    "no such model": (["--model=gpt-9"], "smollm2-135m"),
    "open to the world": (["--host=0.0.0.0"], "--allow-anonymous"),
    "a name is no loopback address": (["--host=example.org"], "--allow-anonymous"),
    "mode without a delimiter": (["--delimiter=hidden"], "needs a delimiter-token-id"),
    "delimiter without a mode": (["--delimiter-token-id=0"], "needs no delimiter-token-id"),
    "causal and serial": (["--isolation=causal", "--algorithm=serial"], "no meaning"),
    "causal and chunks": (["--isolation=causal", "--algorithm=packed_extend"], "no meaning"),
    "causal and a delimiter": (
        ["--isolation=causal", "--delimiter=hidden", "--delimiter-token-id=0"],
        "use delimiter 'none'",
    ),
    "warm-up of one token": (["--warmup-tokens=1"], "warmup-tokens must be at least 2"),
    "warm-up of words": (["--warmup-tokens=64,many"], "warmup-tokens must be integers"),
    "port": (["--port=70000"], "port must be between"),
    "template": (["--rerank-template={document}"], "{query} once"),
    "template the wrong way": (["--rerank-template={document} {query}"], "{query} before"),
    "same labels": (["--rerank-yes=a", "--rerank-no=a"], "must differ"),
    "key file": (["--api-key-file=/nonexistent"], "cannot read the API key"),
    "empty key": (["--api-key-file=/dev/null"], "the API key is empty: /dev/null holds nothing"),
    "prefix cache": (["--prefix-cache-bytes=-1"], "prefix-cache-bytes must be at least 0, got -1"),
    "item above request": (["--max-request-tokens=10"], "must not be above max-request-tokens"),
    "wait": (["--max-wait-ms=-1"], "max-wait-ms must be between"),
    "rate": (["--rate-limit=-1"], "rate-limit must be at least 0"),
    "more connections than files": (["--max-connections=2000000000"], "may open"),
    "stray": (["extra"], "unexpected argument"),
    "not this machine": (["--host=192.0.2.1", "--allow-anonymous"], "cannot listen on 192.0.2.1"),
} | {
    f"{flag} 0": ([f"--{flag}=0"], f"{flag} must be a")  # "at least 1", "above 0"
    for flag in (
        "max-batch-tokens",
        "max-batch-requests",
        "max-body-bytes",
        "max-items",
        "max-item-tokens",
        "max-request-tokens",
        "max-labels",
        "max-queue-requests",
        "max-queue-tokens",
        "max-connections",
        "rate-burst",
        "request-timeout",
        "read-timeout",
        "write-timeout",
        "drain-timeout",
        "stall-timeout",
    )
}  # fmt: skip


def last_words(capsys, *arguments: str) -> str:
    """The last line on stderr of a start that is refused."""
    from absl import flags

    from isoprefill.cli import serve
    from isoprefill.cli.main import execute

    values = flags.FLAGS.flag_values_dict()
    try:
        rest = flags.FLAGS([*SERVE[3:], *arguments])
        status = execute(serve, rest)
    finally:
        flags.FLAGS.unparse_flags()
        for name, value in values.items():
            flags.FLAGS[name].value = value
    assert status == 2
    last: str = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("serve: ")
    return last


@pytest.mark.parametrize(("arguments", "reason"), BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
def test_bad_flags_stop_the_start_with_the_reason(model_directory, capsys, arguments, reason):
    assert reason in last_words(capsys, f"--model={model_directory}", *arguments)


def test_an_empty_key_in_the_environment_is_named(model_directory, capsys, monkeypatch):
    monkeypatch.setenv("ISOPREFILL_API_KEY", "")
    refused = last_words(capsys, f"--model={model_directory}")
    assert "ISOPREFILL_API_KEY is set but holds nothing" in refused


def test_what_only_the_scheduler_finds_out_stops_the_start_too(tmp_path, model_directory):
    """Weights that are missing, a warm-up that is too long, a mesh that the model does not allow."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((pathlib.Path(model_directory) / name).read_bytes())
    for arguments, reason in (
        ([f"--model={tmp_path}"], "safetensors"),
        (
            [f"--model={model_directory}", "--warmup-tokens=9999"],
            "at most the model's 512 positions",
        ),
        (
            [f"--model={model_directory}", "--mesh=tensor=3"],
            "mesh tensor=3 must divide the model's",
        ),
        (
            [f"--model={model_directory}", "--mesh=3"],
            "mesh must be like 'data=2,tensor=4', got '3'",
        ),
    ):
        server = RunningServer(*SERVE, *arguments)
        assert server.process.wait(120) == 2
        server.wait_for_event("log ended")
        assert server.log_text[-1].startswith("serve: ")
        assert reason in server.log_text[-1]
        assert "Fatal Python error" not in "".join(server.log_text)


def test_settings_that_do_not_go_with_the_model_stop_the_start(model_directory):
    """What shows only when the model is there: a delimiter beyond its vocabulary, labels that it has no token for."""
    program = pathlib.Path(__file__).parent.parent / "support" / "faulty_server.py"
    engine = EngineSettings(model=model_directory, warmup_tokens=())
    settings = ServerSettings(engine=engine, port=0)
    unusable = [
        (
            {"delimiter": "hidden", "delimiter_token_id": 300},
            ValueError,
            "less than the model's vocabulary of 300, got 300",
        ),
        ({"rerank": RerankSettings(relevant="yes", irrelevant="n")}, StartError, "'yes'"),
    ]
    for change, kind, reason in unusable:
        with pytest.raises(kind, match=reason):
            launch.serve(
                msgspec.structs.replace(settings, **change), (sys.executable, str(program))
            )
    with pytest.raises(StartError, match="ended with status 7"):
        launch.serve(settings, (sys.executable, "-c", "raise SystemExit(7)"))


# Clients


def test_openai_client(server, strict_server):
    """The official client: its answers, and its exceptions for our errors."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    body = {"model": "default", "query": "abc", "items": ["x", "yz"], "label_token_ids": [1, 2]}
    answer = client.post("/score", body=body, cast_to=object)
    assert answer["scores"] == server.score(**body)["scores"]
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.BadRequestError) as bad:
        client.post("/score", body=body | {"items": []}, cast_to=object)
    assert (bad.value.code, bad.value.param, bad.value.type) == (
        "empty_items",
        "items",
        "invalid_value_error",
    )
    with pytest.raises(openai.UnprocessableEntityError):
        client.post("/score", body=body | {"label_token_ids": [VOCAB]}, cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.post("/score", body=body | {"model": "gpt-9"}, cast_to=object)
    stranger = openai.OpenAI(base_url=f"{strict_server.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.post("/score", body=body, cast_to=object)


def test_a_client_that_looks_for_isolation_finds_it(smollm2):
    """The requests of a script that people run against such servers, and its three verdicts.

    It sends no labels, and reads data["scores"][i]["score"] as the item's log-probability.
    """

    def score_items(query: str, items: list[str]) -> dict[str, float]:
        response = httpx.post(
            f"{smollm2.url}/v1/score",
            json={"model": "default", "query": query, "items": items, "apply_softmax": False},
            timeout=60,
        )
        response.raise_for_status()
        data = response.json()
        return {item: data["scores"][index]["score"] for index, item in enumerate(items)}

    query = "What is the capital of France?"
    forwards = score_items(query, ["Paris", "London", "Berlin"])
    backwards = score_items(query, ["Berlin", "London", "Paris"])
    assert max(abs(forwards[item] - backwards[item]) for item in forwards) < 1e-3
    neutral = score_items(query, ["Hello world", "Paris"])["Paris"]
    leading = score_items(query, ["Paris is a beautiful city", "Paris"])["Paris"]
    assert abs(neutral - leading) < 1e-3
    item = "The food was excellent and service was great"
    before = "Terrible food, awful service, never coming back"
    scores = [
        score_items("Rate this restaurant review", [before] * number + [item])[item]
        for number in (0, 1, 5, 10)
    ]
    assert np.ptp(scores) < 1e-3


def test_smollm2_over_http(smollm2):
    """The embedded model, by the numbers that its own library gives."""
    answer = smollm2.score(
        query="The capital of France is", items=[" Paris", " London", " Berlin", " banana"]
    )
    expected = [-0.2581, -4.3844, -6.9207, -17.2379]
    np.testing.assert_allclose(likelihoods(answer), expected, atol=1e-3)
    assert answer["model"] == "smollm2-135m"
    yes = load_tokenizer("smollm2-135m").encode(" yes")
    by_id = smollm2.score(query="Is it a fruit?", items=[" An apple."], label_token_ids=yes)
    by_text = smollm2.score(query="Is it a fruit?", items=[" An apple."], labels=[" yes"])
    assert by_id["scores"] == by_text["scores"]
    rerank = smollm2.post("/v1/rerank", query="a fruit", documents=["a car", "an apple"]).json()
    assert all(0 < one["relevance_score"] < 1 for one in rerank["results"])


# The OpenAPI document


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_what_the_document_says(server, mode):
    """Requests made from the document, right and wrong: no 5xx, documented statuses, documented shapes."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 7
    asked = 0

    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue

        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=40 if operation.method == "post" else 3,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def check(case):
            nonlocal asked
            asked += 1
            case.call_and_validate(
                checks=[
                    not_a_server_error,
                    status_code_conformance,
                    content_type_conformance,
                    response_schema_conformance,
                    negative_data_rejection,
                ]
            )

        check()
    assert asked > 50


def documentation(name: str) -> str:
    return (pathlib.Path(__file__).parents[2] / "docs" / name).read_text()


def test_every_code_is_documented_with_its_status_and_type():
    """The table of errors is the contract: a code that moves to another status breaks clients."""
    documented = {}
    for line in documentation("api.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0][:3].isdigit():
            for code in re.findall(r"`([a-z_]+)`", re.sub(r"\(.*?\)", "", cells[2])):
                documented[code] = ([int(status) for status in cells[0].split(",")], cells[1])
    codes = isoprefill.server.errors.CODES
    assert set(documented) == set(codes)
    for code, (status, kind) in codes.items():
        assert status in documented[code][0]
        assert kind == documented[code][1]


def test_every_flag_and_metric_is_documented(server):
    """Whoever runs a server finds in operations.md what there is, and nothing that there is not."""
    from absl import flags

    import isoprefill.cli.serve

    text = documentation("operations.md")
    ours = {flag.name for flag in flags.FLAGS.flags_by_module_dict()[isoprefill.cli.serve.__name__]}
    section = text[text.index("## Flags") : text.index("## Metrics")]
    assert set(re.findall(r"`--([a-z-]+)`", section)) == ours
    shown = set(
        re.findall(r"^# TYPE (isoprefill_\w+)", httpx.get(f"{server.url}/metrics").text, re.M)
    )
    section = text[text.index("## Metrics") :]
    assert set(re.findall(r"`(isoprefill_\w+)", section)) == shown


def test_document_has_the_limits_of_the_server_that_runs(strict_server, server):
    plain = httpx.get(f"{server.url}/openapi.json").json()
    response = httpx.get(
        f"{strict_server.url}/openapi.json", headers={"authorization": f"Bearer {KEY}"}
    )
    strict = response.json()
    sizes = json.dumps(strict["components"]["schemas"]["ScoreRequest"]["properties"]["items"])
    assert '"maxItems": 5' in sizes
    assert strict["paths"]["/v1/score"]["post"]["security"] == [{"bearer": []}]
    assert "security" not in plain["paths"]["/v1/score"]["post"]
