"""What the server does when its processes die, its queue is full, and its clients are slow, gone or hostile."""

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import os
import pathlib
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest.mock

import httpx
import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState

import small_models
from isoprefill.models.source import load_tokenizer
from isoprefill.server import admission, bodies, launch, logs
from isoprefill.server.connection import SURPLUS, protocol_class
from isoprefill.server.dispatch import Dispatcher
from isoprefill.server.errors import CODES, ApiError
from isoprefill.server.front_end import make_app
from isoprefill.server.metrics import Metrics
from isoprefill.server.scheduler import StartMessage
from isoprefill.server.service import Service
from isoprefill.server.settings import BatchSettings, EngineSettings, Limits, ServerSettings
from isoprefill.server.supervisor import SCHEDULER_COMMAND, _python_path
from running_server import PATIENCE_S, SERVE, RunningServer, running, running_server, wait_for

BODY = {"query": "abc", "items": ["x", "yz"]}
QUEUE = 8


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> str:
    model = small_models.random_model("llama")
    return str(small_models.save_directory(model, tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def flags(model_directory) -> list[str]:
    return [
        f"--model={model_directory}",
        "--warmup-tokens=",
        "--rerank-yes=y",
        "--rerank-no=n",
        f"--max-queue-requests={QUEUE}",
        "--max-queue-tokens=1000",
        "--max-body-bytes=4000000",
        "--max-connections=40",
        "--read-timeout=2",
        "--write-timeout=2",
    ]


@pytest.fixture(scope="module")
def server(flags):
    with running_server(*flags) as one:
        yield one


def code_of(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert CODES[error["code"]] == (response.status_code, error["type"])
    return error["code"]


def send(server, number: int, pool, body=BODY) -> list[concurrent.futures.Future]:
    """Sends requests at once and waits until all of them are in flight."""
    sent = [pool.submit(server.post, "/v1/score", **body) for _ in range(number)]
    server.wait_for_in_flight(number)
    return sent


def scores(server, body=BODY) -> list[float]:
    return [one["score"] for one in server.score(**body)["scores"]]


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def raw_request(body: bytes, length: int | None = None) -> bytes:
    return (
        "POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body) if length is None else length}\r\n\r\n"
    ).encode() + body


def read_all(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            received += part
    return received


# Processes


def test_kill_9_of_the_scheduler(server):
    """What was in flight gets a clean 503 at once; a new scheduler comes; the next request has the same scores."""
    before = scores(server)
    restarts = server.metric("scheduler_restarts_total")
    starts = len(server.events("ready"))
    with concurrent.futures.ThreadPoolExecutor(QUEUE) as pool, server.scheduler_stopped() as pid:
        sent = send(server, 5, pool)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        for one in sent:
            response = one.result()
            assert code_of(response) == "model_not_loaded"
            assert "retry-after" in response.headers
        took = time.monotonic() - killed
    ended = server.wait_for_event("scheduler_ended")
    answers = [line for line in server.events("request") if line.get("code") == "model_not_loaded"]
    assert len(answers) == 5
    assert ended["status"] == -signal.SIGKILL
    # The second, with room for a machine that does other things: a request's time-out is 60.
    assert took < 5
    assert httpx.get(f"{server.url}/ready").status_code == 503
    server.wait_until_ready(starts + 1)
    assert scores(server) == before
    assert server.metric("scheduler_restarts_total") == restarts + 1
    assert server.metric("queue_requests") == 0


def test_sigterm_drains(flags):
    """No new connections, but what is in flight is answered; then both processes end, status 0."""
    server = RunningServer(*SERVE, *flags).wait_until_ready()
    with concurrent.futures.ThreadPoolExecutor(QUEUE) as pool:
        with server.scheduler_stopped() as scheduler:
            sent = send(server, 3, pool)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_event("draining")

            def refused() -> bool:
                try:
                    connect(server).close()
                except ConnectionRefusedError:
                    return True
                return False

            wait_for(refused)
            assert server.process.poll() is None
        for one in sent:
            assert len(one.result().json()["scores"]) == 2
    assert server.process.wait(60) == 0
    wait_for(lambda: not os.path.exists(f"/proc/{scheduler}"))
    assert "Traceback" not in "".join(server.log_text)


def test_a_second_signal_ends_it_at_once(flags):
    """Whoever does not want to wait for what is in flight need not reach for kill -9."""
    server = RunningServer(*SERVE, *flags, "--drain-timeout=3600").wait_until_ready()
    with concurrent.futures.ThreadPoolExecutor(1) as pool, server.scheduler_stopped():
        (sent,) = send(server, 1, pool)
        for number in (1, 2):
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_event("draining", number)
        assert code_of(sent.result()) == "model_not_loaded"
        assert server.process.wait(60) == 0


def test_a_scheduler_that_cannot_start_again_is_tried_again(flags, model_directory, tmp_path):
    """The model's file is gone for a while: the server stays, says that it is not ready, and comes back."""
    moved = tmp_path / "moved"
    with running_server(*flags) as server:
        pathlib.Path(model_directory).rename(moved)
        try:
            os.kill(server.scheduler_pid, signal.SIGKILL)
            server.wait_for_event("scheduler_not_started")
            assert httpx.get(f"{server.url}/health").status_code == 200
            assert code_of(server.post("/v1/score", **BODY)) == "model_not_loaded"
        finally:
            moved.rename(model_directory)
        server.wait_until_ready(2)
        assert len(scores(server)) == 2


def test_a_long_temporary_directory_and_few_open_files(model_directory, tmp_path, monkeypatch):
    """Neither a path that no socket can have nor a low limit of files stops a start."""
    long = tmp_path / ("a" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = Limits(max_connections=300)
    engine = EngineSettings(model=model_directory, warmup_tokens=())
    settings = ServerSettings(
        engine=engine, limits=few, port=0, delimiter="hidden", delimiter_token_id=300
    )
    program = pathlib.Path(__file__).parent.parent / "support" / "faulty_server.py"
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        # That the delimiter is none of the model's shows when the scheduler has been heard over its socket.
        with pytest.raises(ValueError, match="vocabulary"):
            launch.serve(settings, (sys.executable, str(program)))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not list(long.iterdir())


def test_a_fault_of_the_front_end_is_500_in_the_usual_shape(model_directory, caplog):
    """A mistake of ours: the client gets a code and an id, the log the place, and neither gets the content."""
    settings = ServerSettings(engine=EngineSettings(model=model_directory))
    metrics = Metrics()
    dispatcher = Dispatcher(settings.limits, metrics)
    service = Service(settings, "tiny", load_tokenizer(model_directory), metrics, dispatcher, 0)
    service.preparer = object()  # type: ignore[assignment]
    dispatcher.connect(object())  # type: ignore[arg-type]

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/v1/score", json={"query": "secret", "items": ["secret"]})

    with caplog.at_level(logging.INFO):
        response = asyncio.run(ask())
    assert code_of(response) == "internal_error"
    ours = [record for record in caplog.records if record.name == "isoprefill.server"]
    event, request = (record.fields for record in ours)
    assert event["request_id"] == request["request_id"] == response.headers["x-request-id"]
    assert event["exception"] == "AttributeError"
    assert (request["status"], request["code"]) == (500, "internal_error")
    assert "secret" not in response.text + repr([vars(record) for record in ours])


def test_a_scheduler_that_cannot_start_ends_without_a_word():
    """While its standard input is still open: the reason goes over the socket, and nothing hides it."""
    program = pathlib.Path(__file__).parent.parent / "support" / "faulty_server.py"
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        start = StartMessage(
            address=f"ipc://{directory}/socket",
            engine=EngineSettings(model="none", warmup_tokens=(9999,)),
            batch=BatchSettings(),
            log_format="text",
        )
        scheduler = subprocess.Popen(
            [sys.executable, str(program)],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with scheduler:
            assert scheduler.stdin is not None
            assert scheduler.stderr is not None
            scheduler.stdin.write(msgspec.json.encode(start) + b"\n")
            scheduler.stdin.flush()
            assert scheduler.wait(PATIENCE_S) == 0
            assert not scheduler.stderr.read()


def test_the_scheduler_runs_no_code_of_the_working_directory(tmp_path):
    """A model is often served from the directory into which it was downloaded."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit('code of the working directory')")
    done = subprocess.run(
        SCHEDULER_COMMAND,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": _python_path()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "msgspec.DecodeError" in done.stderr, "it came as far as reading its settings"
    assert "code of the working directory" not in done.stderr


def test_the_scheduler_ends_with_the_front_end(flags, monkeypatch):
    """Not even kill -9 of the front end leaves a process that holds the device, or its socket's directory, behind."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        server = RunningServer(*SERVE, *flags)
        scheduler = server.wait_for_event("scheduler_started")["pid"]
        server.wait_until_ready()
        assert list(pathlib.Path(directory).glob("isoprefill-*"))
        server.process.kill()
        wait_for(lambda: not os.path.exists(f"/proc/{scheduler}"))
        assert not list(pathlib.Path(directory).glob("isoprefill-*"))


def with_limits(model_directory, **limits):
    """A server whose engine compiles nothing, so that it is silent for a short stall time only if it hangs."""
    program = pathlib.Path(__file__).parent.parent / "support" / "faulty_server.py"
    return running(sys.executable, str(program), model_directory, json.dumps(limits))


def test_a_scheduler_that_hangs_is_started_anew(model_directory):
    """It owes an answer and says nothing: after the stall time it is killed, and the next request is served."""
    with with_limits(model_directory, stall_timeout_s=1.5) as server:
        with concurrent.futures.ThreadPoolExecutor(1) as pool, server.scheduler_stopped():
            (sent,) = send(server, 1, pool)
            assert code_of(sent.result()) == "model_not_loaded"
        assert server.events("scheduler_stalled")
        server.wait_until_ready(2)
        assert len(scores(server)) == 2


def test_a_scheduler_that_hangs_longer_than_clients_wait_is_started_anew(model_directory):
    """Nothing is in flight any more when the stall time is over; the next client would wait in vain, and the next."""
    with with_limits(model_directory, request_timeout_s=1, stall_timeout_s=3) as server:
        with server.scheduler_stopped():
            assert code_of(server.post("/v1/score", **BODY)) == "request_timeout"
        assert len(scores(server)) == 2
        time.sleep(4)  # it owes nothing for what has timed out once it has read so
        assert not server.events("scheduler_stalled")
        with server.scheduler_stopped():
            assert code_of(server.post("/v1/score", **BODY)) == "request_timeout"
            server.wait_for_event("scheduler_stalled")
        server.wait_until_ready(2)
        assert len(scores(server)) == 2


# The queue


def test_a_full_queue_is_429_and_what_was_in_it_is_answered(server):
    """More requests than may wait: refused at once, with the time to come again, and nothing is kept of them."""
    with concurrent.futures.ThreadPoolExecutor(QUEUE) as pool:
        with server.scheduler_stopped():
            sent = send(server, QUEUE, pool)
            for _ in range(50):
                refused = server.post("/v1/score", **BODY)
                assert code_of(refused) == "queue_full"
                assert int(refused.headers["retry-after"]) >= 1
            assert server.metric("queue_requests") == QUEUE
            assert server.metric("queue_tokens") == QUEUE * 6
        assert all(one.result().status_code == 200 for one in sent)
    assert server.metric("queue_requests") == 0


def test_what_clients_gave_up_is_bounded_while_the_scheduler_has_not_read_so(server):
    """Post, hang up and post again must not pile up requests on their way to a scheduler that is busy."""
    body = raw_request(json.dumps(BODY).encode())
    with server.scheduler_stopped():
        for _ in range(2 * QUEUE):
            with connect(server) as client:
                client.sendall(body)
                server.wait_for_in_flight(1)
            server.wait_for_in_flight(0)
        assert code_of(server.post("/v1/score", **BODY)) == "queue_full"
    wait_for(lambda: server.post("/v1/score", **BODY).status_code == 200)


def test_scores_to_come_count_as_tokens_that_wait(server):
    """Few labels for many items are many scores."""
    body = {**BODY, "label_token_ids": [1, 2, 3]}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with server.scheduler_stopped():
            (sent,) = send(server, 1, pool, body)
            assert server.metric("queue_tokens") == 6 + 2 * 3
        assert sent.result().status_code == 200


def test_a_query_that_is_computed_for_every_item_counts_for_every_item(server):
    """With item_first a short body is much work."""
    body = {**BODY, "item_first": True}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with server.scheduler_stopped():
            (sent,) = send(server, 1, pool, body)
            assert server.metric("queue_tokens") == (3 + 1) + (3 + 2)
        assert sent.result().status_code == 200


def test_tokens_that_wait_are_bounded_too(server):
    """Few large requests fill the queue as many small ones do."""
    large = {"query": "a" * 300, "items": ["b" * 100]}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        with server.scheduler_stopped():
            sent = send(server, 2, pool, large)
            assert code_of(server.post("/v1/score", **large)) == "queue_full"
        assert all(one.result().status_code == 200 for one in sent)


def test_a_client_that_goes_away_leaves_the_queue(server):
    """Its place is free at once, and its items are never scored."""
    scored = server.metric("batch_requests_sum")
    with server.scheduler_stopped():
        body = json.dumps(BODY).encode()
        clients = [connect(server) for _ in range(QUEUE)]
        for client in clients:
            client.sendall(raw_request(body))
        server.wait_for_in_flight(QUEUE)
        for client in clients:
            client.close()
        server.wait_for_in_flight(0)
    scores(server)
    assert server.metric("http_requests_total", status="499", code="client_gone") >= QUEUE
    assert server.metric("http_requests_total", status="500") == 0
    # What was sent and cancelled before the scheduler woke up was never in a batch.
    assert server.metric("batch_requests_sum") == scored + 1


def test_a_request_that_takes_too_long_is_503_and_leaves_the_queue(flags):
    with running_server(*flags, "--request-timeout=1") as server:
        with server.scheduler_stopped():
            assert code_of(server.post("/v1/score", **BODY)) == "request_timeout"
            assert server.metric("queue_requests") == 0
        wait_for(lambda: server.post("/v1/score", **BODY).status_code == 200)


# Clients


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


# What is bounded in memory


def test_bodies_that_are_being_read_are_bounded_together():
    """Many clients that each send a large body slowly must not add up to all of the memory."""
    reader = bodies.BodyReader(Limits(max_body_bytes=100))
    holding = asyncio.Event()

    async def slow():
        if holding.is_set():
            await asyncio.sleep(3600)
        holding.set()
        return {"type": "http.request", "body": b"a" * 100, "more_body": True}

    async def all_of_them() -> None:
        reading, states = [], []
        for _ in range(bodies.BODIES_AT_ONCE):
            holding.clear()
            states.append({})
            reading.append(asyncio.create_task(reader.read({}, slow, states[-1])))
            await holding.wait()
        holding.clear()
        with pytest.raises(ApiError) as refused:
            await reader.read({}, slow, {})
        assert refused.value.code == "queue_full"
        for one in reading:
            one.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

        async def small():
            return {"type": "http.request", "body": b"{}"}

        with pytest.raises(ApiError):  # what was read is held until its request has been answered
            await reader.read({}, small, {})
        for state in states:
            reader.release(state)
        assert await reader.read({}, small, {}) == b"{}"  # their memory is free

    asyncio.run(all_of_them())


def test_a_refused_body_that_does_not_end_is_not_waited_for(monkeypatch):
    """A client that is refused and goes on sending a byte at a time holds nothing for long."""
    monkeypatch.setattr(bodies, "DRAIN_S", 0.05)

    async def endless():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"a", "more_body": True}

    tracked = bodies.TrackedReceive(endless, {})
    asyncio.run(tracked.drop_rest())
    assert not tracked.finished


def test_the_rate_limit_is_by_client_and_forgets_the_oldest():
    """Each address has a share of its own; addresses without end do not fill the memory."""
    rate = admission.RateLimiter(rate=1.0, burst=2)
    for client in ("a", "b"):
        rate.check(client, now=0.0)
        rate.check(client, now=0.0)
        with pytest.raises(ApiError) as refused:
            rate.check(client, now=0.5)
        assert refused.value.code == "rate_limit_exceeded"
        assert refused.value.retry_after_s == pytest.approx(0.5)
        rate.check(client, now=1.5)
    for number in range(admission.REMEMBERED_CLIENTS):
        rate.check(str(number), now=2.0)
    rate.check("a", now=2.0)
    rate.check("a", now=2.0)  # as a newcomer: its two at once


@pytest.mark.parametrize(("seconds", "sent"), [(0.0, "1"), (1.0, "1"), (1.4, "2"), (2.5, "3")])
def test_retry_after_is_not_too_early(seconds, sent):
    """Who comes again when told must not be refused again."""
    error = ApiError("rate_limit_exceeded", "", retry_after_s=seconds)
    assert error.headers() == {"retry-after": sent}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_line_is_one_line_and_holds_no_message_of_an_exception(log_format):
    """What a client sends cannot begin a line of its own in the log, nor be read in it."""
    formatter = logs._Formatter(log_format, "front-end")
    record = logging.LogRecord("x", logging.ERROR, "", 0, "first\nsecond", None, None)
    record.fields = {"path": "a\n2026 I forged", "plain": "word", "number": 1.5}
    try:
        raise ValueError("the content of a request")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = formatter.format(record)
    assert "\n" not in line
    assert "ValueError" in line
    assert "content" not in line
    if log_format == "json":
        assert json.loads(line)["number"] == 1.5
    else:
        assert line.endswith("Z E front-end " + line.partition("front-end ")[2])
        assert " plain=word number=1.5 " in line


# Malformed bodies


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
        "query": [one for one in wrong if one not in ([1],)],
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
