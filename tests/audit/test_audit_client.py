"""The auditor's client: servers that misbehave, answers that are no scores, addresses and keys."""

import asyncio
import contextlib
import gc
import json
import socket
import threading
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from audited_servers import audit
from isoprefill.audit import ScoreClient, ServerError
from isoprefill.audit.log_scores import (
    LOG_FLOOR,
    MalformedScoresError,
    detect_scale,
    parse_scores,
    to_log,
)
from local_server import serving


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ("oops", 500, "answered HTTP 500: oops"),
        ("oops", 200, "did not answer with JSON"),
        ("[" * 100_000, 200, "did not answer with JSON"),
        ("[]", 200, "did not answer with a JSON object"),
        ("{}", 200, "scores must be a list with an entry for each item, got NoneType"),
        ('{"scores": [-1]}', 200, "for each of 3 items, got 1"),
        ('{"scores": [-1, -1, NaN]}', 200, r"scores\[2\] must hold numbers, got nan"),
        (
            '{"scores": [-1, -1, 1' + "0" * 400 + "]}",
            200,
            r"scores\[2\] must hold numbers that fit",
        ),
        ('{"scores": [-1, -1, {}]}', 200, r"scores\[2\] must hold numbers, got missing"),
        ('{"scores": [[0.1], [0.1, 0.2], [1]]}', 200, "the same number of scores"),
        ('{"scores": [-1, 1, 3]}', 200, "got -1 to 3"),
        ('{"error": {"message": "no labels"}}', 400, "refuses an ordinary request: .*no labels"),
        ("", 307, "answered HTTP 307, a redirect that does not say where to"),
        ('{"detail": "Not Found"}', 404, "answered HTTP 404: Not Found"),
    ],
)
def test_a_misbehaving_server_is_an_error_with_the_reason(content, status, message):
    app = FastAPI()

    @app.post("/v1/score")
    def score() -> Response:
        return Response(content, status, media_type="application/json")

    with pytest.raises(ServerError, match=message):
        audit(app)


@pytest.mark.parametrize("labels", [None, [65]])
def test_a_server_that_needs_labels_gets_the_hint_only_if_there_were_none(labels):
    app = FastAPI()

    @app.post("/v1/score")
    def score() -> Response:
        return Response('{"message": "no good"}', 400)

    with pytest.raises(ServerError, match="HTTP 400: no good") as error:
        audit(app, labels)
    assert ("if it scores labels only" in str(error.value)) == (labels is None)


def test_a_server_that_answers_too_late_or_too_much_is_an_error(monkeypatch):
    """The auditor must not hang, and must not be filled up."""
    app = FastAPI()

    @app.post("/v1/score")
    def score() -> Response:
        time.sleep(1)
        return Response("x" * 2000)

    with serving(app) as url:
        with (
            contextlib.closing(ScoreClient(url, timeout=0.1)) as client,
            pytest.raises(ServerError, match="did not answer in time"),
        ):
            client.score("a", ["b"])
        monkeypatch.setattr("isoprefill.audit.client.MAX_BYTES", -24)
        with (
            contextlib.closing(ScoreClient(url)) as client,
            pytest.raises(ServerError, match="more than 1000 bytes"),
        ):
            client.score("a", ["b"])


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("https://other:8443/v1/score", "a redirect to 'https://other:8443/v1/score': if that is the server, "
         "give --server-url https://other:8443$"),
        ("https://me:secret@other/v1/score", "give --server-url https://other$"),
        ("/v2/score", "a redirect to '/v2/score' of the same server"),
        ("file:///etc/passwd", "a redirect to 'file:.*passwd', which is no address of HTTP$"),
    ],
)  # fmt: skip
def test_a_redirect_says_where_it_leads(location, message):
    """Followed it might send the key elsewhere; not named it leaves people guessing."""
    app = FastAPI()

    @app.post("/v1/score")
    def score() -> Response:
        return Response("", 308, headers={"location": location})

    with pytest.raises(ServerError, match=message) as raised:
        audit(app)
    assert "secret" not in str(raised.value)


def busy(times: int, status: int, headers: dict[str, str]) -> FastAPI:
    """A server that asks so many times to come again."""
    app, left = FastAPI(), iter(range(times))

    @app.post("/v1/score")
    def score() -> Response:
        if next(left, None) is not None:
            return Response('{"error": {"message": "too many"}}', status, headers=headers)
        return Response('{"scores": [-1]}')

    return app


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"retry-after": "0"}),
        (503, {"retry-after": "0"}),
        (429, {}),
        (429, {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}),
        (429, {"retry-after": "soon"}),
    ],
)
def test_a_busy_server_is_asked_again(monkeypatch, status, headers):
    """A rate limit is no fault: an audit of ninety requests runs into it."""
    monkeypatch.setattr("isoprefill.audit.client.FIRST_PAUSE_S", 0.01)
    with (
        serving(busy(3, status, headers)) as url,
        contextlib.closing(ScoreClient(url)) as client,
    ):
        assert client.score("a", ["b"]).log_scores.tolist() == [[-1]]


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (429, {"retry-after": "300"}, r"HTTP 429: too many \(it asks to wait 300 seconds.* --timeout 5 leaves"),
        (429, {"retry-after": "Thu, 01 Jan 2100 00:00:00 GMT"}, "asks to wait"),
        (503, {}, "HTTP 503: too many"),
    ],
)  # fmt: skip
def test_a_server_that_stays_busy_is_an_error_at_once(status, headers, message):
    with (
        serving(busy(10**6, status, headers)) as url,
        contextlib.closing(ScoreClient(url, timeout=5)) as client,
        pytest.raises(ServerError, match=message),
    ):
        client.score("a", ["b"])


@pytest.mark.parametrize("dripping", ["headers", "body"])
def test_an_answer_that_comes_byte_by_byte_ends_with_the_time_out(dripping):
    """Every byte comes in time, and the answer never."""
    answer = b'{"scores": [-1]}' + b" " * 30
    head = b"HTTP/1.1 200 OK\r\nx: " + b"y" * 30 + b"\r\ncontent-length: 46\r\n\r\n"
    at_once = 0 if dripping == "headers" else len(head)
    answer = head + answer

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(answer[:at_once])
            for place in range(at_once, len(answer)):
                connection.sendall(answer[place : place + 1])
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            contextlib.closing(ScoreClient(url, timeout=0.5)) as client,
            pytest.raises(ServerError, match=r"did not answer in time: 0\.5 seconds"),
        ):
            client.score("a", ["b"])


@pytest.mark.parametrize(
    ("sent", "scale", "expected"),
    [
        ([{"score": -1.5}, {"score": -2.0}], "log", [[-1.5], [-2.0]]),
        ([-1.5, None], "log", [[-1.5], [LOG_FLOOR]]),
        ([[0.5, 1.0], [0.0, 0.25]], "probability", np.log([[0.5, 1.0], [1e-300, 0.25]])),
        ([{"scores": [0.5]}, {"scores": [1]}], "probability", [[np.log(0.5)], [0.0]]),
    ],
)
def test_scores_are_compared_in_log_space_whatever_is_sent(sent, scale, expected):
    scores = parse_scores(sent)
    assert detect_scale(scores) == scale
    expected = np.where(np.asarray(expected) < -600, LOG_FLOOR, expected)
    np.testing.assert_allclose(to_log(scores, scale), expected)


@pytest.mark.parametrize(
    "score",
    [True, "0.5", {"value": 1}, [], {"index": 1, "score": -1}, {"index": 10**30, "score": -1}],
)
def test_scores_that_are_none_are_refused(score):
    with pytest.raises(MalformedScoresError):
        parse_scores([score])


@pytest.mark.parametrize("url", ["http://me:pw@host", "http://me:pw@host:abc", "http://pw@[::1"])
def test_an_address_with_a_password_is_refused_without_being_repeated(url):
    """Reports and messages hold the address."""
    with pytest.raises(ValueError, match="must not contain a user name or a password") as error:
        ScoreClient(url)
    assert "pw" not in str(error.value)


@pytest.mark.parametrize("key", ["se\ncret", "sécret", " secret", ""])
def test_a_key_that_cannot_travel_is_refused_without_being_repeated(key):
    """Else the message of a header that cannot be sent holds it."""
    with pytest.raises(ValueError, match="the API key ") as error:
        ScoreClient("http://x", api_key=key)
    assert "cret" not in str(error.value)


def test_the_limit_of_an_answer_follows_from_what_was_asked():
    """60 MB of JSON take gigabytes when they are parsed, and minutes."""
    app = FastAPI()

    @app.post("/v1/score")
    def score(body: dict) -> Response:
        many = [-1.2345678901234567] * 20
        return Response(json.dumps({"scores": [{"scores": many, "text": "x" * 800}] * 2000}))

    with serving(app) as url:
        with contextlib.closing(ScoreClient(url, label_token_ids=list(range(20)))) as client:
            assert client.score("a", ["b"] * 2000).log_scores.shape == (2000, 20)
        with (
            contextlib.closing(ScoreClient(url)) as client,
            pytest.raises(ServerError, match="more than 1049600 bytes"),
        ):
            client.score("a", ["b"])


def test_what_is_cut_off_is_closed_before_the_loop_ends(caplog):
    """Else Python says on stderr, beside the one line, that a task was destroyed."""
    app = FastAPI()

    @app.post("/v1/score")
    async def score() -> StreamingResponse:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"1," * 10_000
                await asyncio.sleep(0)

        return StreamingResponse(endless())

    with serving(app) as url:
        for _ in range(5):
            with (
                contextlib.closing(ScoreClient(url)) as client,
                pytest.raises(ServerError, match="more than"),
            ):
                client.score("a", ["b"])
            gc.collect()
    assert not [one for one in caplog.records if one.name == "asyncio"]


def test_a_proxy_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "ftp://x:y")
    with pytest.raises(ValueError, match="proxy"):
        ScoreClient("http://x")
