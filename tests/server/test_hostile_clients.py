"""Clients that are slow, gone, too many, or send too much or nonsense."""

import asyncio
import contextlib
import json
import random
import socket
import unittest.mock

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from api_answers import code_of
from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.server import launch
from isoprefill.server.connection import SURPLUS, protocol_class
from isoprefill.server.joined_writes import JoinedWrites
from isoprefill.server.settings import Limits, ServerSettings
from raw_http import BODY, BOUNDED, connect, raw_request, read_all, scores
from running_server import wait_for

pytest_plugins = ["server_fixtures"]
FLAGS = BOUNDED


def test_slow_bodies_end(server):
    """A body that comes byte by byte is 408 after the read time, and others are served meanwhile."""
    with connect(server) as slow:
        slow.sendall(raw_request(b'{"query"', length=1000))
        assert len(scores(server)) == 2
        answer = read_all(slow)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_read_timeout" in answer
    assert b"connection: close" in answer


@pytest.mark.parametrize("sent", [b"", b"POST /v1/score HT", b"POST /v1/score HTTP/1.1\r\nhost: l"])
def test_slow_headers_end(server, sent):
    """A connection on which no request comes is closed after the read time."""
    with connect(server) as slow:
        slow.sendall(sent)
        assert read_all(slow) == b""


def test_half_closed_and_aborted_clients(server):
    """A client that stops in the middle of anything is forgotten."""
    body = json.dumps(BODY).encode()
    for cut in (10, 80, len(raw_request(body)) - 3, len(raw_request(body))):
        with connect(server) as client:
            client.sendall(raw_request(body)[:cut])
            client.shutdown(socket.SHUT_WR)
            read_all(client)
    server.wait_for_in_flight(0)
    assert len(scores(server)) == 2


def test_a_client_that_does_not_read_its_answer_is_cut_off(server):
    """Answers that nobody takes fill the socket's buffers; then the connection ends, and its memory is free."""
    openapi = b"GET /openapi.json HTTP/1.1\r\nhost: l\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", server.port))
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):  # some 30 MB of answers
                client.sendall(openapi)
            wait_for(lambda: not _alive(client))
    assert len(scores(server)) == 2


def test_an_answer_to_a_lost_connection_does_not_touch_the_next_one():
    """The next connection may have its file's number, and must be read: else it waits, and is reset."""

    class Connection(asyncio.Protocol):
        def __init__(self) -> None:
            loop = asyncio.get_running_loop()
            self.read, self.lost = loop.create_future(), loop.create_future()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.read.set_result(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(None)

    async def connected(end: socket.socket) -> Connection:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_unix_connection(Connection, sock=end)
        return made

    async def answer_and_take_the_next() -> None:
        ours, theirs = socket.socketpair()
        number = ours.fileno()
        first = await connected(ours)
        joined = JoinedWrites(first.transport, asyncio.get_running_loop())
        joined.write(b"answer")
        first.transport.abort()  # as when the client resets the connection in the same turn
        await first.lost
        with theirs:
            ends = socket.socketpair()
        ours, theirs = ends if ends[0].fileno() == number else ends[::-1]
        assert ours.fileno() == number
        with theirs:
            second = await connected(ours)
            theirs.sendall(b"request")
            async with asyncio.timeout(10):
                assert await second.read == b"request"
        await second.lost

    asyncio.run(answer_and_take_the_next())


def test_a_client_that_does_not_read_the_end_of_an_answer_is_cut_off():
    """However little is left: else it holds one of the connections for ever."""
    size = 40_000

    async def app(scope, receive, send):
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size)})

    async def ask_and_read_nothing() -> None:
        loop, state = asyncio.get_running_loop(), ServerState()
        config = uvicorn.Config(app, loop="asyncio", lifespan="off", log_config=None)
        connection = protocol_class(Limits(write_timeout_s=0.5))
        with socket.socket() as listener, socket.socket() as client:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.bind(("127.0.0.1", 0))
            server = await loop.create_server(lambda: connection(config, state, {}), sock=listener)
            client.connect(listener.getsockname())
            client.sendall(b"GET / HTTP/1.1\r\nhost: l\r\n\r\n")
            async with asyncio.timeout(60):
                while not any(one.transport.get_write_buffer_size() for one in state.connections):
                    await asyncio.sleep(0.01)
                while state.connections:
                    await asyncio.sleep(0.01)
            server.close()

    asyncio.run(ask_and_read_nothing())


LONG = b"POST / HTTP/1.1\r\nhost: l\r\ncontent-length: 3000000\r\n\r\n"


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_client_that_is_still_sending_reads_its_early_answer(goes_on):
    """A refusal that comes before the body has been sent: a reset instead would look like a broken server.

    A client that never ends does not hold the connection for ever.
    """

    async def app(scope, receive, send):
        headers = [(b"content-length", b"6"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": b"no, no"})

    async def send_slowly() -> None:
        loop, state = asyncio.get_running_loop(), ServerState()
        config = uvicorn.Config(app, loop="asyncio", lifespan="off", log_config=None)
        connection = protocol_class(Limits(read_timeout_s=20 if goes_on else 0.2))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = await loop.create_server(lambda: connection(config, state, {}), sock=listener)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            async with asyncio.timeout(60):
                writer.write(LONG + bytes(1_000_000))
                await writer.drain()
                await asyncio.sleep(0.05)  # the answer is there, and the server has closed
                if goes_on:
                    for _ in range(2):
                        writer.write(bytes(1_000_000))
                        await writer.drain()
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 429")
                assert answer.endswith(b"no, no")
                if goes_on:
                    writer.close()
                while state.connections:
                    await asyncio.sleep(0.01)
            writer.transport.abort()
            server.close()

    asyncio.run(send_slowly())


def _alive(client: socket.socket) -> bool:
    try:
        client.send(b"\r\n")
    except OSError:
        return False
    return True


def test_oversized_bodies(server):
    """Declared or not, a body over the limit is 413, and the client that sends all of it reads the answer."""
    huge = json.dumps({"query": "a" * 10_000_000, "items": ["b"]}).encode()
    declared = httpx.post(
        f"{server.url}/v1/score", content=huge, headers={"content-type": "application/json"}
    )
    assert code_of(declared) == "body_too_large"

    def chunks():
        for begin in range(0, len(huge), 100_000):
            yield huge[begin : begin + 100_000]

    streamed = httpx.post(
        f"{server.url}/v1/score", content=chunks(), headers={"content-type": "application/json"}
    )
    assert code_of(streamed) == "body_too_large"
    with connect(server) as client:  # 10 TB are not waited for
        client.sendall(raw_request(b"", length=10**13))
        assert read_all(client).startswith(b"HTTP/1.1 413")


HEALTH = b"GET /health HTTP/1.1\r\nhost: l\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n"
CHUNKED = (
    b"POST /v1/score HTTP/1.1\r\nhost: l\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n"
)


def answered(server, *sent: bytes) -> list[bytes]:
    """The answers to what is sent, in as many pieces, on one connection, until the server closes it."""
    with connect(server) as client, contextlib.suppress(ConnectionError):
        for piece in sent:
            client.sendall(piece)
        return [b"HTTP/1.1 " + one for one in read_all(client).split(b"HTTP/1.1 ")[1:]]
    return []


def test_requests_that_do_not_wait_for_answers_get_them_in_order(server):
    """However many, and however their bytes are cut: each is answered, with its own answer."""
    body = json.dumps(BODY).encode()
    stream = (raw_request(body) + HEALTH) * 60 + LAST
    for size in (len(stream), 1000, 37):
        answers = answered(
            server, *[stream[begin : begin + size] for begin in range(0, len(stream), size)]
        )
        assert [b'"scores"' in one for one in answers] == [True, False] * 60 + [False]
        assert all(one.startswith(b"HTTP/1.1 200") for one in answers)


def test_a_body_that_is_coded_twice_is_not_taken_for_plain(server):
    """The bytes that are left when the chunks are put together are gzip's: read as JSON they would mean nothing."""
    body = json.dumps(BODY).encode()
    head = CHUNKED.replace(b": chunked", b": gzip, chunked") + b"connection: close\r\n\r\n"
    (answer,) = answered(server, head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    assert answer.startswith(b"HTTP/1.1 415")
    assert b"unsupported_media_type" in answer


@pytest.mark.parametrize("nonsense", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_good_request_before_a_bad_one_is_answered(server, nonsense):
    """What comes after a request does not take its answer away."""
    answers = answered(server, raw_request(json.dumps(BODY).encode()) + nonsense)
    assert [one[9:12] for one in answers] == [b"200", b"400"]


@pytest.mark.parametrize("cut", [40, 200, 10_000])
def test_an_offer_of_another_protocol_is_ignored(server, cut):
    """Java's client offers HTTP/2 in every request; its body must be read all the same, and the next request too."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    body = json.dumps(BODY).encode()
    head, _, rest = raw_request(body).partition(b"\r\n")
    whole = head + b"\r\n" + offer + rest
    chunked = CHUNKED + offer + b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    stream = whole + chunked + HEALTH.replace(b"host", offer + b"host") + whole + LAST
    answers = answered(server, *[stream[at : at + cut] for at in range(0, len(stream), cut)])
    assert [b'"scores"' in one for one in answers] == [True, True, False, True, False]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"CONNECT l:1 HTTP/1.1\r\nhost: l:1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        CHUNKED + b"content-length: 4\r\n\r\n0\r\n\r\n",
        CHUNKED + b"\r\n-1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["no host", "two hosts", "a proxy's", "HTTP/2", "two lengths", "bad chunk", "TLS"],
)
def test_what_is_no_request_is_400(server, sent):
    """A proxy before the server must not read it otherwise than the server does."""
    (answer,) = answered(server, sent)
    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "endless",
    [
        b"\r\n" * 1000,
        CHUNKED + b"\r\n1;" + b"a" * 2000,
        CHUNKED + b"\r\n0\r\nx: " + b"a" * 2000,
        b"GET /" + b"a" * 2000,
    ],
    ids=["empty lines", "a chunk's extension", "a trailer", "a path"],
)
def test_what_is_no_body_is_bounded(server, endless):
    """Bytes that no limit of a body counts must not pile up, nor keep a connection."""
    with connect(server) as client, contextlib.suppress(ConnectionError):
        client.sendall(endless)
        for _ in range(1000):
            client.sendall(endless[-1000:])
        assert read_all(client).startswith(b"HTTP/1.1 400")


def test_empty_lines_keep_no_connection(server):
    """They are the beginning of a request that never comes."""
    assert not answered(server, b"\r\n")
    assert [one[9:12] for one in answered(server, HEALTH, b"\r\n")] == [b"200"]


def test_oversized_headers(server):
    with connect(server) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET /health HTTP/1.1\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_more_connections_than_allowed_are_refused(server):
    """A crowd of clients gets 429 and not a reset, and those that watch over the server an answer; then all is well."""
    request = raw_request(json.dumps(BODY).encode())
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(45)]
        clients[-1].sendall(request)
        answer = read_all(clients[-1])  # until the server closes it
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"queue_full" in answer
        clients[-2].sendall(b"GET /health HTTP/1.1\r\nhost: l\r\n\r\n")
        assert read_all(clients[-2]).startswith(b"HTTP/1.1 200")
    wait_for(lambda: _serves(server))


def test_twice_as_many_connections_are_closed_at_once():
    """What is refused politely takes memory too, and must be bounded."""

    async def connect_six() -> list[tuple[bool, bool]]:
        config = uvicorn.Config(lambda: None, loop="asyncio")
        config.load()
        connection = protocol_class(Limits(max_connections=2))
        state = ServerState()
        made = []
        for _ in range(6):
            transport = unittest.mock.Mock()
            transport.get_extra_info.return_value = None
            one = connection(config, state, {}, asyncio.get_running_loop())
            one.connection_made(transport)
            made.append((SURPLUS in one.app_state, transport.abort.called))
        return made

    refused, closed = (True, False), (False, True)
    assert asyncio.run(connect_six()) == [(False, False)] * 2 + [refused] * 2 + [closed] * 2


def _serves(server) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{server.url}/health").status_code == 200
    return False


def test_answers_leave_at_once():
    """With Nagle's algorithm an answer in two parts waits for the client's delayed acknowledgement: 40 ms and more."""
    settings = ServerSettings(engine=EngineSettings(model="any"), port=0)

    async def no_delay() -> int:
        accepted = asyncio.get_running_loop().create_future()
        with launch._listening_socket(settings) as listener:
            server = await asyncio.start_server(
                lambda _, writer: accepted.set_result(writer), sock=listener
            )
            _, client = await asyncio.open_connection(*listener.getsockname())
            writer = await accepted
            option = writer.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY
            )
            for one in (client, writer, server):
                one.close()
        return option

    assert asyncio.run(no_delay())


def test_a_get_with_a_body_that_never_ends_holds_no_connection(server):
    """Nobody reads its body, so no deadline of a body would end it."""
    with connect(server) as client:
        client.sendall(
            b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\na"
        )
        answer = read_all(client)  # returns when the server has closed the connection
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()


def malformed_bodies(number: int) -> list[bytes]:
    """Bodies none of which is a request: a good one with one thing wrong, or bytes that are no JSON."""
    chance = random.Random(0)
    wrong = [
        None,
        True,
        0,
        -1,
        1.5,
        1e308,
        2**31,
        2**64,
        -(2**70),
        "",
        [],
        {},
        [None],
        [[]],
        [{}],
        [1.5],
        ["a", 1],
        [[1], "a"],
        [True],
        [[1, None]],
        [-1],
        [2**70],
        [[2**63]],
        {"text": 5},
    ]
    # What is wrong for a field whatever the others are; a boolean field takes true, a nullable one null.
    never = {
        "query": [one for one in wrong if one not in ([1], [], "", None)],  # nothing: BOS alone
        "items": wrong,
        "documents": [*wrong, "a"],
        "label_token_ids": [one for one in wrong if one is not None],
        "labels": [one for one in wrong if one is not None],
        "apply_softmax": [one for one in wrong if one is not True],
        "item_first": [one for one in wrong if one is not True],
        "model": [one for one in wrong if one is not None] + ["gpt-9"],
        "temperature": [one for one in wrong if one is not None],  # even a good one needs labels
        "isolation": [one for one in wrong if one is not None],
        "top_n": [one for one in wrong if one not in (None, True, 2**31, 2**64)],
        "no_such_field": wrong,
    }
    for name in ("apply_softmax", "item_first", "no_such_field"):
        never[name] = [one for one in never[name] if one is not True and one is not False]
    raw = [
        b"",
        b"{",
        b"nul",
        b'{"query": NaN, "items": ["a"]}',
        b'{"query": "a", "items": ["b"], "temperature": Infinity}',
        b'{"query": "\\ud800", "items": ["a"]}',
        b'{"query": "a", "items": ["\\udfff\\ud800"]}',
        b'{"query": "\xff", "items": ["a"]}',
        b'{"query": "a", "items": ["a"]} x',
        b"[" * 50_000 + b"]" * 50_000,
        b'{"query": ' * 10_000 + b"1" + b"}" * 10_000,
        b'{"query": "a", "items": [' + b"[" * 5_000 + b"]" * 5_000 + b"]}",
        b'{"query": "a", "items": [1' + b"0" * 5_000 + b"]}",
        b'{"query": "' + b"a" * 10_000_000 + b'", "items": ["b"]}',
        b'{"query": "a", "items": ["' + b"b" * 3_900_000 + b'"]}',
        b"\x00" * 1000,
    ]
    bodies = list(raw)
    while len(bodies) < number:
        if chance.random() < 0.1:  # a good body, cut
            text = json.dumps(BODY).encode()
            bodies.append(text[: chance.randrange(len(text))])
            continue
        field = chance.choice([name for name in never if name != "documents"])
        bodies.append(json.dumps(BODY | {field: chance.choice(never[field])}).encode())
    return bodies


def test_a_thousand_malformed_bodies(server, model_directory):
    """Every one is a 4xx with a code, none a 5xx; no path or trace leaves; scores are what they were."""
    before = scores(server)
    sent = malformed_bodies(1000)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        codes: dict[str, int] = {}
        for number, body in enumerate(sent):
            path = "/v1/score" if number % 10 else "/v1/rerank"
            response = client.post(path, content=body, headers={"content-type": "application/json"})
            assert 400 <= response.status_code < 500, (body[:200], response.text)
            code = code_of(response)
            codes[code] = codes.get(code, 0) + 1
            for leak in ("Traceback", "File ", ".py", "/tmp", model_directory):
                assert leak not in response.text
    assert len(codes) > 15, codes  # the bodies do differ
    assert scores(server) == before
    assert server.metric("queue_requests") == 0
    assert not server.events("internal_error")
    assert server.metric("scheduler_ready") == 1
