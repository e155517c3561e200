"""Limits, modes, key and rate limit of a server that is strict, and work that must not block the others."""

import threading

import httpx
import numpy as np

from api_answers import code_of
from http_oracle import oracle_labels
from isoprefill.request import label_trie
from isoprefill.request.errors import RequestError
from isoprefill.request.model_limits import ModelLimits
from server_fixtures import KEY
from unconnected_service import ask, unconnected_service

pytest_plugins = ["server_fixtures"]


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
    # Reranked by the query's likelihood, which is repeated after every document.
    assert strict_post(strict_server, {"query": "a", "documents": ["b"]}, "/v1/rerank").is_success
    rerank = strict_post(strict_server, {"query": "a" * 20, "documents": ["b"] * 5}, "/v1/rerank")
    assert code_of(rerank) == "too_many_tokens"


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


def test_much_text_is_not_tokenised_on_the_event_loop(model_directory):
    """Else a small body that means much text would keep every other client waiting."""
    threads = []

    class Recorder:
        labels = None
        limits = ModelLimits(300, 512, 512, 64)

        def num_characters(self, job):
            return 20 * len(job.documents)

        def request(self, *args, **kwargs):
            threads.append(threading.current_thread())
            raise RequestError("empty_query", "query")

    service = unconnected_service(model_directory)
    service.preparer = service.reranker = Recorder()
    joint = {"query": "a" * 1000, "items": ["b"] * 100, "tokenization": "joint"}
    many = {"query": "a", "documents": ["b"] * 4000}
    long = {"query": "a", "items": ["b" * 100_000]}
    short = {"query": "a", "items": ["b"], "tokenization": "joint"}
    sent = ("score", joint), ("rerank", many), ("score", long), ("score", short)
    for path, body in sent:
        assert code_of(ask(service, body, f"/v1/{path}")) == "empty_query"
    assert [one is threading.main_thread() for one in threads] == [False, False, False, True]


def test_many_labels_do_not_become_trees_on_the_event_loop(model_directory, monkeypatch):
    """A million tokens of labels take seconds, in which no other client would be answered."""
    threads = []
    made = label_trie._made

    def recorded(labels):
        threads.append(threading.current_thread())
        return made(labels)

    monkeypatch.setattr(label_trie, "_made", recorded)
    service = unconnected_service(model_directory)
    labels = [f"{number:03}" + "x" * 350 for number in range(400)]
    answer = ask(service, {"query": "a", "items": ["b"], "labels": labels})
    assert code_of(answer) == "too_many_tokens"
    assert threads
    assert threading.main_thread() not in threads
