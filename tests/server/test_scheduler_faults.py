"""What the server does when one of its processes dies, hangs, or cannot start."""

import asyncio
import concurrent.futures
import logging
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time

import httpx
import msgspec
import pytest

import faulty_server
from api_answers import code_of
from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.models.sources.source import load_tokenizer
from isoprefill.server import dispatch, launch, protocol
from isoprefill.server.framing import Frames
from isoprefill.server.front_end import make_app
from isoprefill.server.scheduler import StartMessage
from isoprefill.server.service import Service
from isoprefill.server.settings import BatchSettings, Limits, ServerSettings
from isoprefill.server.supervisor import SCHEDULER_COMMAND, StartError, _python_path
from raw_http import BODY, BOUNDED, QUEUE, connect, raw_request, read_all, scores, send
from running_server import PATIENCE_S, SERVE, RunningServer, running, running_server, wait_for
from server_fixtures import faulty_command

pytest_plugins = ["server_fixtures"]
FLAGS = BOUNDED


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
    # A request is logged after its answer is sent.
    wait_for(
        lambda: (
            [line.get("code") for line in server.events("request")].count("model_not_loaded") == 5
        )
    )
    assert ended["status"] == -signal.SIGKILL
    # The second, with room for a machine that does other things: a request's time-out is 60.
    assert took < 5
    assert httpx.get(f"{server.url}/ready").status_code == 503
    server.wait_until_ready(starts + 1)
    assert scores(server) == before
    assert server.metric("scheduler_restarts_total") == restarts + 1
    assert server.metric("queue_requests") == 0


def test_sigterm_drains(model_directory):
    """No new connections, but what is in flight is answered; then both processes end, status 0."""
    server = RunningServer(*faulty_command(model_directory)).wait_until_ready()
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


def test_a_second_signal_ends_it_at_once(model_directory):
    """Whoever does not want to wait for what is in flight need not reach for kill -9."""
    command = faulty_command(model_directory, drain_timeout_s=3600)
    server = RunningServer(*command).wait_until_ready()
    with concurrent.futures.ThreadPoolExecutor(1) as pool, server.scheduler_stopped():
        (sent,) = send(server, 1, pool)
        for number in (1, 2):
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_event("draining", number)
        assert code_of(sent.result()) == "model_not_loaded"
        assert "The server ends" in sent.result().text
        assert server.process.wait(60) == 0


def test_what_is_not_answered_while_it_drains_is_refused(model_directory):
    """In JSON and with 503, which a balancer sends elsewhere: uvicorn cancels it, and answers 500 as text."""
    command = faulty_command(model_directory, drain_timeout_s=1)
    server = RunningServer(*command).wait_until_ready()
    with concurrent.futures.ThreadPoolExecutor(3) as pool, server.scheduler_stopped():
        sent = send(server, 2, pool)
        sent.append(pool.submit(server.post, "/v1/completions", prompt="abc", max_tokens=1))
        server.wait_for_in_flight(3)
        with connect(server) as slow:  # whose body never comes
            slow.sendall(raw_request(b"{", length=1000))
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            answer = read_all(slow)
        for one in sent:
            assert code_of(one.result()) == "model_not_loaded"
            assert "The server ends" in one.result().text
            assert (one.result().status_code, one.result().headers["retry-after"]) == (503, "1")
            assert "x-request-id" in one.result().headers
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"model_not_loaded" in answer
    assert server.process.wait(60) == 0
    assert "Exception in ASGI" not in "".join(server.log_text)


def test_a_stopped_scheduler_is_not_ready(server):
    """Else a load balancer goes on sending for `--stall-timeout`; when it goes on it is ready again."""

    def status() -> int:
        return httpx.get(f"{server.url}/ready").status_code

    server.wait_until_ready()
    with server.scheduler_stopped():
        wait_for(lambda: status() == 503)
        assert server.metric("scheduler_ready") == 0
        assert httpx.get(f"{server.url}/health").status_code == 200
    wait_for(lambda: status() == 200)
    assert server.metric("scheduler_restarts_total") == len(server.events("scheduler_restart"))


def test_a_long_batch_is_not_taken_for_a_stop(model_directory):
    """It takes longer than the longest silence, and the scheduler is ready all the time."""
    assert faulty_server.SLOW_S > dispatch.LONGEST_SILENCE_S + 1
    body = {"query": [1], "items": [[faulty_server.SLOW]]}
    with (
        running(*faulty_command(model_directory)) as server,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(server.post, "/v1/score", **body)
        server.wait_for_in_flight(1)
        while not answer.done():
            assert httpx.get(f"{server.url}/ready").status_code == 200
            time.sleep(0.2)
        assert answer.result().status_code == 200


FILES = {
    "room for all": (10**6, 1024, None, 2112, 1024),
    "room for fewer": (1000, 1024, None, 1000, 468),
    "fewer were set": (1000, 400, None, 864, 400),
    "more were set": (1000, 500, "max-connections must be at most 468", 0, 0),
    "hardly any": (70, 1024, "a server needs at least 80 open files, but this process may open 70", 0, 0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("hard", "wanted", "refused", "soft", "connections"), FILES.values(), ids=FILES.keys()
)
def test_the_default_fits_the_limit_of_open_files(
    monkeypatch, hard, wanted, refused, soft, connections
):
    """`ulimit -n 1024`, which many systems have, must not refuse a server without flags."""
    set_to = []
    monkeypatch.setattr(launch.resource, "getrlimit", lambda limit: (64, hard))
    monkeypatch.setattr(launch.resource, "setrlimit", lambda limit, to: set_to.append(to))
    settings = ServerSettings(engine=EngineSettings(), limits=Limits(max_connections=wanted))
    if refused is not None:
        with pytest.raises((ValueError, StartError), match=refused):
            launch._fitted(settings)
        return
    assert launch._fitted(settings).limits.max_connections == connections
    assert set_to == [(soft, hard)]


TOLD_AGAIN = """
import atexit, os, signal
from isoprefill.server import scheduler

scheduler._serve = lambda make_engine: None
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
scheduler.run(None)
"""


def test_a_scheduler_that_is_told_twice_to_end_says_nothing():
    """Its channel closes and the front end asks: Python's end, interrupted, would print where it was."""
    environment = os.environ | {"PYTHONPATH": _python_path()}
    command = [sys.executable, "-c", TOLD_AGAIN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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
    settings = ServerSettings(
        engine=EngineSettings(model=model_directory),
        warmup_tokens=(),
        limits=few,
        port=0,
        delimiter="hidden",
        delimiter_token_id=300,
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
    service = Service(settings, "tiny", load_tokenizer(model_directory))
    service.preparer = object()  # type: ignore[assignment]
    service.dispatcher.connect(object())  # type: ignore[arg-type]

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
    ours, theirs = socket.socketpair()
    start = StartMessage(
        socket=theirs.fileno(),
        engine=EngineSettings(model="none"),
        warmup_tokens=(9999,),
        batch=BatchSettings(),
        log_format="text",
    )
    with ours:
        with theirs:
            scheduler = subprocess.Popen(
                [sys.executable, str(program)],
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        with scheduler:
            assert scheduler.stdin is not None
            assert scheduler.stderr is not None
            scheduler.stdin.write(msgspec.json.encode(start) + b"\n")
            scheduler.stdin.flush()
            assert scheduler.wait(PATIENCE_S) == 0
            assert not scheduler.stderr.read()
        (message,) = Frames().feed(ours.recv(4096))
    said = protocol.decode_to_front_end(message)
    assert isinstance(said, protocol.NotStarted)
    assert said.by_settings
    assert "warmup-tokens" in said.reason


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
    """Not even kill -9 of the front end leaves a process that holds the device, or a file, behind."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        server = RunningServer(*SERVE, *flags)
        scheduler = server.wait_for_event("scheduler_started")["pid"]
        server.wait_until_ready()
        server.process.kill()
        wait_for(lambda: not os.path.exists(f"/proc/{scheduler}"))
        assert not list(pathlib.Path(directory).glob("isoprefill-*"))


def test_a_scheduler_that_hangs_is_started_anew(model_directory):
    """It owes an answer and says nothing: after the stall time it is killed, and the next request is served."""
    with running(*faulty_command(model_directory, stall_timeout_s=1.5)) as server:
        with concurrent.futures.ThreadPoolExecutor(1) as pool, server.scheduler_stopped():
            (sent,) = send(server, 1, pool)
            assert code_of(sent.result()) == "model_not_loaded"
        assert server.events("scheduler_stalled")
        server.wait_until_ready(2)
        assert len(scores(server)) == 2


def test_a_scheduler_that_hangs_longer_than_clients_wait_is_started_anew(model_directory):
    """Nothing is in flight any more when the stall time is over; the next client would wait in vain, and the next."""
    command = faulty_command(model_directory, request_timeout_s=1, stall_timeout_s=1.5)
    with running(*command) as server:
        with server.scheduler_stopped():
            assert code_of(server.post("/v1/score", **BODY)) == "request_timeout"
        assert len(scores(server)) == 2
        time.sleep(2.8)  # it owes nothing for what has timed out once it has read so
        assert not server.events("scheduler_stalled")
        with server.scheduler_stopped():
            assert code_of(server.post("/v1/score", **BODY)) == "request_timeout"
            server.wait_for_event("scheduler_stalled")
        server.wait_until_ready(2)
        assert len(scores(server)) == 2


def test_a_scheduler_that_sends_what_is_no_message_is_started_anew(model_directory):
    """Once: the whole server ended with it. What it had gets a clean 503, and the next request is served."""
    with running(*faulty_command(model_directory)) as server:
        body = {"query": [1], "items": [[faulty_server.GARBLED]]}
        assert code_of(server.post("/v1/score", **body)) == "model_not_loaded"
        assert server.wait_for_event("scheduler_garbled")["exception"] == "ValidationError"
        server.wait_until_ready(2)
        assert len(scores(server)) == 2
