"""The server over PyTorch that the auditor is tried on, and the scorer behind it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import flashinfer_stand_in
from audited_servers import LABELS, small_directory, torch_backend
from isoprefill.audit import Rejected
from isoprefill_torch import TorchScorer, flashinfer_cuda, load_model
from isoprefill_torch.packing import pack
from isoprefill_torch.server import Backend, create_app
from local_server import serving


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return small_directory(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def backend(directory) -> Backend:
    return torch_backend(directory)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body must be a JSON object"),
        ({"items": ["a"]}, "query is missing"),
        ({"query": "a", "items": ["a"] * 10_001}, "at most 10000 items"),
        ({"query": "a", "items": []}, "items must be a list of at least 1 item"),
        ({"query": "a", "items": ["a", ""]}, r"items\[1\] must hold at least 1 token"),
        ({"query": "a", "items": [[300]]}, r"items\[0\] must hold token ids in \[0, 300\)"),
        ({"query": "a", "items": [[1.5]]}, r"items\[0\] must be text or token ids"),
        ({"query": "a", "items": ["a"], "label_token_ids": []}, "label_token_ids must hold"),
        ({"query": "a", "items": ["a"], "item_first": True}, "item_first is not supported"),
        ({"query": "a", "items": ["b" * 9000]}, "9001 tokens, at most 8192"),
    ],
)
def test_the_reference_server_refuses_what_it_would_misread(backend, body, message):
    import httpx

    with serving(create_app(backend)) as url:
        response = httpx.post(f"{url}/v1/score", json=body)
    assert response.status_code == 400
    with pytest.raises(Rejected, match=message):
        raise Rejected(response.json()["error"]["message"])


def test_the_reference_server_scores_as_the_model_does(backend):
    """The shapes of SGLang's answers: rows with labels, objects without; softmax over the labels."""
    with serving(create_app(backend)) as url:
        import httpx

        def ask(**fields):
            body = {"query": "abc", "items": ["de", "f"], **fields}
            return httpx.post(f"{url}/v1/score", json=body).json()

        likelihoods, labels = ask(), ask(label_token_ids=LABELS)
        softmax = ask(label_token_ids=LABELS, apply_softmax=True)
    encode = backend.tokenizer.encode
    query, items = encode("abc"), [encode("de"), encode("f")]
    expected = backend.logprobs(query, items, None)
    np.testing.assert_allclose([one["score"] for one in likelihoods["scores"]], expected)
    expected = np.exp(backend.logprobs(query, items, LABELS))
    np.testing.assert_allclose(labels["scores"], expected)
    np.testing.assert_allclose(
        softmax["scores"], expected / expected.sum(axis=1, keepdims=True), rtol=1e-6
    )
    assert likelihoods["usage"] == {"prompt_tokens": 6, "completion_tokens": 0, "total_tokens": 6}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "fast"}, r"method must be one of .*, got 'fast'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"method": "causal", "batch_size": 2}, "'causal' takes no batch_size, got 2"),
        ({"labels": []}, "labels must hold at least 1 token id, got 0"),
        ({"items": []}, "items must hold at least 1 item, got 0"),
        ({"items": [[1], []]}, r"items\[1\] must hold at least 1 token, got 0"),
        ({"query": [300]}, r"query must hold token ids in \[0, 300\), got 300 to 300"),
        ({"delimiter": "hidden"}, "delimiter 'hidden' needs a delimiter_id, got None"),
    ],
)
def test_the_torch_scorer_checks_its_arguments(backend, arguments, message):
    values = {"query": [1], "items": [[2]], "method": "isolated-dense", **arguments}
    with pytest.raises(ValueError, match=message):
        backend.scorer.logprobs(**values)


def test_flashinfer_is_refused_without_cuda(backend):
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    with pytest.raises(ValueError, match="needs CUDA"):
        backend.scorer.logprobs([1, 2], [[3]], method="flashinfer")


def test_flashinfer_is_called_as_its_documentation_says(directory, monkeypatch):
    """With CUDA the scores must be those of its rule; here its rule stands in for its kernel."""
    scorer = TorchScorer(load_model(directory, "bfloat16"))
    monkeypatch.setitem(sys.modules, "flashinfer", flashinfer_stand_in)
    monkeypatch.setattr(flashinfer_cuda, "unavailable", lambda: None)
    query, items = [5, 6, 7], [[1, 2, 3], [4], [8, 9]]
    scores = scorer.logprobs(query, items, LABELS, method="flashinfer")
    expected = scorer.logprobs(query, items, LABELS, method="flashinfer-rule")
    np.testing.assert_allclose(scores, expected, atol=0.05)  # bfloat16
    causal = scorer.logprobs(query, items, LABELS, method="causal")
    assert np.abs(scores - causal)[1:].max() > 0.2


def test_flashinfer_refuses_what_it_cannot_do(backend, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="needs the package flashinfer-python"):
        backend.scorer.logprobs([1, 2], [[3]], method="flashinfer")
    monkeypatch.setattr(flashinfer_cuda, "unavailable", lambda: None)
    with pytest.raises(ValueError, match="needs bfloat16 weights, got float32"):
        backend.scorer.logprobs([1, 2], [[3]], method="flashinfer")


def test_flashinfer_gets_the_published_parameters():
    """The example of FlashInfer's own documentation: items of 3, 2 and 4 tokens."""
    packing = pack([1, 2], [[1] * 3, [1] * 2, [1] * 4], "hidden", 0)
    positions = [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4, 0]
    assert flashinfer_cuda.token_pos_in_items(packing) == positions
