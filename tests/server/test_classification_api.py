"""A server of a classification model: /v1/score and /v1/rerank against transformers, and what it refuses.

If one of these fails, a reranker's clients get the wrong order, or numbers that are not its head's.
"""

import asyncio

import numpy as np
import pytest
import torch

import small_models
from api_answers import code_of
from http_oracle import tokens_of
from huggingface_directory import save_directory
from isoprefill.models.config.classes import Classes
from isoprefill.request.errors import RequestError
from isoprefill.request.options import ScoreOptions
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import limits
from isoprefill.server.settings import RerankSettings
from unconnected_service import ask, unconnected_service

pytest_plugins = ["server_fixtures"]

NAMES = {0: "irrelevant", 1: "relevant"}
ITEMS = ["x", "some text", "another"]


@pytest.fixture(scope="module")
def model():
    return small_models.random_classifier("qwen3", True, num_labels=2, id2label=NAMES)


@pytest.fixture(scope="module")
def model_directory(model, tmp_path_factory):
    return str(save_directory(model, tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def flags(model_directory):
    return [f"--model={model_directory}", "--warmup-tokens=32"]


@torch.inference_mode()
def logits(model, query: str, items: list[str]) -> np.ndarray:
    ids = [torch.tensor([tokens_of(query + item)]) for item in items]
    return np.stack([model(one).logits[0].numpy() for one in ids])


def test_score(server, model):
    """Logits a row, in the order of the items, and the names of the columns; with softmax probabilities."""
    expected = logits(model, "abc", ITEMS)
    answer = server.score(query="abc", items=ITEMS)
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-3)
    assert answer["classes"] == list(NAMES.values())
    probabilities = torch.softmax(torch.from_numpy(expected), 1).numpy()
    answer = server.score(query="abc", items=ITEMS, apply_softmax=True)
    np.testing.assert_allclose(answer["scores"], probabilities, atol=1e-3)
    best = server.score(query="abc", items=ITEMS, top_n=2)
    order = np.argsort(-probabilities[:, 1])[:2].tolist()
    assert best["indices"] == order
    np.testing.assert_allclose(best["scores"], expected[order], atol=1e-3)


def test_pooled_hidden_states(server, model):
    """One vector for each item that comes back, in the same order; the head of them is the scores."""
    for extra in ({}, {"top_n": 2}, {"item_first": True}):
        answer = server.score(query="abc", items=ITEMS, return_pooled_hidden_states=True, **extra)
        states = torch.tensor(answer["pooled_hidden_states"])
        assert states.shape == (len(answer["scores"]), 64)
        with torch.inference_mode():
            np.testing.assert_allclose(model.score(states).numpy(), answer["scores"], atol=1e-4)


def test_rerank(server, model):
    """Query and document one after the other, with nothing in between; the second class is the relevant one."""
    answer = server.post("/v1/rerank", query="abc", documents=ITEMS).json()
    expected = torch.softmax(torch.from_numpy(logits(model, "abc", ITEMS)), 1)[:, 1].numpy()
    order = np.argsort(-expected).tolist()
    assert [one["index"] for one in answer["results"]] == order
    found = [one["relevance_score"] for one in answer["results"]]
    np.testing.assert_allclose(found, expected[order], atol=1e-3)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"label_token_ids": [1]}, "label_token_ids"),
        ({"labels": ["a"]}, "labels"),
        ({"return_token_logprobs": True}, "return_token_logprobs"),
        ({"return_item_logprobs": True}, "return_item_logprobs"),
        ({"return_logprob": True}, "return_logprob"),
    ],
)
def test_what_needs_a_language_model_head_is_refused(server, body, param):
    response = server.post("/v1/score", query="a", items=["b"], **body)
    assert code_of(response) == "classification_model"
    assert response.json()["error"]["param"] == param


def test_rerank_by_more_than_two_classes_is_refused(model_directory):
    """None of them is known to be the relevant one."""
    service = unconnected_service(model_directory, classes=Classes(("a", "b", "c")))
    response = ask(service, {"query": "a", "documents": ["b"]}, "/v1/rerank")
    assert code_of(response) == "rerank_unavailable"
    assert "3 classes" in response.json()["error"]["message"]


def test_a_prompt_that_was_set_is_used(model_directory, monkeypatch):
    """Only the default one, which asks for a word, is not for classifiers."""
    sent = []

    async def submit(request, answer_size, trace):
        sent.append(request)
        raise asyncio.CancelledError

    rerank = RerankSettings(template="Q {{ query }} D {{ document }} end")
    service = unconnected_service(model_directory, rerank, Classes(("a",)))
    monkeypatch.setattr(service.dispatcher, "submit", submit)
    with pytest.raises(asyncio.CancelledError):
        ask(service, {"query": "x", "documents": ["y"]}, "/v1/rerank")
    (request,) = sent
    assert request.query.tolist() == tokens_of("Q x D")
    assert request.items[0].tolist() == tokens_of(" y end")


def test_numbers_of_an_answer_are_limited(model_directory):
    """Vectors are many numbers: what a short body asks for must not fill the memory of two processes."""
    service = unconnected_service(model_directory, classes=Classes(("a", "b")))
    pooled = ScoreOptions(return_pooled_hidden_states=True)
    width = service.preparer.limits.answer_size(pooled)
    assert width == 64 + 2
    most = limits.MOST_NUMBERS // width
    item = np.zeros(1, np.int32)
    limits.check_answer(TokenRequest(item, (item,) * most, pooled), width)
    with pytest.raises(RequestError, match=f"at most {most} where each has 66 numbers") as refused:
        limits.check_answer(TokenRequest(item, (item,) * (most + 1), pooled), width)
    assert refused.value.code == "too_many_items"
