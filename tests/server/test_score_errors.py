"""Every code of the error contract, with the field that is named."""

import concurrent.futures
import json
import pathlib
import sys

import httpx
import pytest

from api_answers import code_of, likelihoods
from http_oracle import VOCAB
from isoprefill.request.errors import RequestError
from isoprefill.server.validation import read_object
from running_server import running
from unconnected_service import ask, unconnected_service

pytest_plugins = ["server_fixtures"]


def test_score_with_empty_label(server):
    response = server.post("/v1/score", query="abc", items=["x"], label_token_ids=[])
    assert (response.status_code, code_of(response)) == (400, "empty_label_token_ids")


def test_score_with_invalid_tokens(server):
    response = server.post("/v1/score", query="abc", items=["x"], label_token_ids=[VOCAB])
    assert (response.status_code, code_of(response)) == (422, "token_id_exceeds_vocab")


GOOD = {"query": "abc", "items": ["x"]}


# name: what is added to a good body (... takes a field away), the code, and the field that is named
BAD_BODIES = {
    "no items": ({"items": ...}, "missing_items", "items"),
    "softmax without labels": ({"apply_softmax": True}, "missing_label_token_ids", "label_token_ids"),
    "empty query last": ({"query": "", "item_first": True}, "empty_query", "query"),
    "no tokens in a query last": ({"query": [], "items": [[1]], "item_first": True}, "empty_query", "query"),
    "log-probabilities of no labels": ({"return_token_logprobs": True}, "missing_label_token_ids", "label_token_ids"),
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
        {"items": ["x", "y"], "labels": [["a"]]}, "label_count_mismatch", "labels"
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
    "causal labels of two tokens": ({"labels": ["ab"], "isolation": "causal"}, "invalid_isolation", "isolation"),
    "reads with labels of two tokens": (
        {"labels": ["ab"], "score_extraction_token": "x"}, "invalid_extraction_token", "score_extraction_token"
    ),
    "a label too long for the model": ({"labels": ["a" * 20_000]}, "context_length_exceeded", "items[0]"),
    "labels too long for a request": (
        {"items": ["x"] * 300, "labels": ["a" * 500]}, "too_many_tokens", "items"
    ),
    "labels too long together": (
        {"labels": ["a" * 2000, *["b"] * 1000]}, "too_many_labels", "labels"
    ),
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
    "a query without room for an item": ({"query": "a" * 512}, "context_length_exceeded", "query"),
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


NO_JSON = {
    "UTF-16": ('{"query"'.encode("utf-16"), "it is UTF-16 or UTF-32, and must be UTF-8"),
    "byte order mark": (b'\xef\xbb\xbf{}', "it begins with a byte order mark"),
    "Latin-1": (b'{"query": "\xe9"}', "it must be UTF-8, and is not at byte 11"),
    "half a character": (
        b'{"query": "\\ud800"}', "half of a surrogate pair, which is no character, at line 1 column 18"
    ),
    "the other half first": (b'{"query": "\\udc00\\ud800"}', "half of a surrogate pair, which is no character, at"),
    "half a pair as bytes": (b'{"query": "\xed\xa0\x80"}', "it must be UTF-8, and is not at byte 11"),
    "an escape cut off": (b'{"query": "\\u12"}', "invalid escape at line 1 column 16"),
    "cut off": (b'{"query": "a', "EOF while parsing a string at line 1 column 12"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), NO_JSON.values(), ids=NO_JSON.keys())
def test_a_body_that_is_no_json_is_refused_with_the_reason(body, reason):
    with pytest.raises(RequestError, match="The body is not valid JSON: ") as refused:
        read_object(body)
    assert reason in str(refused.value)


def test_a_label_is_refused_without_being_repeated(server):
    response = server.post(
        "/v1/score", **GOOD | {"labels": ["a"], "score_extraction_token": "a secret"}
    )
    assert code_of(response) == "invalid_label"
    assert "score_extraction_token" in response.text
    assert "secret" not in response.text


def test_an_unknown_field_is_named_with_known_ones(server):
    """With the one that was meant, or with all; a name that is none is only counted."""
    near = server.post("/v1/score", **GOOD, tempereture=0.5).json()["error"]["message"]
    assert near.endswith(": 'tempereture'. Did you mean temperature?")
    for field, shown in (
        ("seed", "'seed'"),
        ("secret" * 100_000, "(a name of 600000 characters)"),
        ("a secret\n\u202e", "(a name of 10 characters)"),
        ("", "(a name of 0 characters)"),
    ):
        far = server.post("/v1/score", **GOOD, **{field: 1}).json()["error"]["message"]
        assert f": {shown}. It accepts query, items, label_token_ids, " in far
        assert "secret" not in far


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rerank"])
def test_the_model_may_be_null_everywhere(server, path):
    """Clients send null for what was not set."""
    body = GOOD if path == "/v1/score" else {"query": "a", "documents": ["b"]}
    answers = [server.post(path, **body, **model) for model in ({}, {"model": None})]
    assert answers[0].status_code == answers[1].status_code == 200
    assert code_of(server.post(path, **body, model=3)) == "invalid_parameter_type"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"query": NaN, "items": ["a"]}', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"query": "\\ud800", "items": ["a"]}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"query": "a", "query": "b", "items": ["a"]}', "invalid_json"),
        (b'{"query": "a", "\\u0071uery": "b", "items": ["a"]}', "invalid_json"),
        (b'{"query": "a", "items": ["a"], "x": {"y": 1, "y": 1}}', "invalid_json"),
        (b"[]", "invalid_body_type"),
        (b'"text"', "invalid_body_type"),
    ],
)
def test_bad_json(server, content, code):
    response = httpx.post(
        f"{server.url}/v1/score", content=content, headers={"content-type": "application/json"}
    )
    assert code_of(response) == code


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-8-sig", "byte order mark"), ("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32", "UTF-32")],
)  # fmt: skip
def test_a_body_in_another_encoding_is_named(server, encoding, named):
    """What PowerShell and Java send by mistake; "expected value at column 1" says nothing."""
    response = httpx.post(
        f"{server.url}/v1/score",
        content=json.dumps(GOOD).encode(encoding),
        headers={"content-type": "application/json"},
    )
    assert code_of(response) == "invalid_json"
    assert named in response.json()["error"]["message"]


def test_a_wrong_type_is_named_with_what_would_be_right(server):
    """And in words for people who send requests, not for those who write schemas."""
    for path, body, message in (
        ("/v1/rerank", {"query": ["a"], "documents": ["b"]}, "query must be text, got an array"),
        ("/v1/score", {"text_1": 5, "text_2": ["b"]}, "text_1: must be one of 'text', 'list', got 5"),
        ("/v1/completions", {"prompt": [], "max_tokens": 0}, "prompt: List should have at least 1 item, not 0"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "max_tokens_per_doc": -1},
         "max_tokens_per_doc: Input should be greater than or equal to 1, got -1"),
    ):  # fmt: skip
        assert server.post(path, **body).json()["error"]["message"] == message


def test_routes_methods_and_media_types(server):
    assert code_of(httpx.get(f"{server.url}/v1/scores")) == "not_found"
    assert code_of(httpx.get(f"{server.url}/v1/score")) == "method_not_allowed"
    assert code_of(httpx.get(f"{server.url}/v1/models/other")) == "model_not_found"
    text = httpx.post(
        f"{server.url}/v1/score", content=b"{}", headers={"content-type": "text/plain"}
    )
    assert code_of(text) == "unsupported_media_type"
    packed = httpx.post(f"{server.url}/v1/score", json=GOOD, headers={"content-encoding": "gzip"})
    assert code_of(packed) == "unsupported_media_type"
    # A redirect would be an answer without a score and without an error.
    assert code_of(server.post("/v1/score/", **GOOD)) == "not_found"


@pytest.mark.parametrize("algorithm", ["serial", "packed_extend", "prefill_extend"])
def test_causal_needs_all_items_in_one_prefill(model_directory, algorithm):
    """On a server that scores items apart it would mean nothing, silently."""
    service = unconnected_service(model_directory, algorithm=algorithm)
    assert code_of(ask(service, GOOD | {"isolation": "causal"})) == "invalid_isolation"


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
