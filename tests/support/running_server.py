"""A server in a process of its own, as a user starts it, for tests that talk to it over real sockets."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

SERVE = (sys.executable, "-m", "isoprefill", "serve", "--port=0", "--log-format=json")
PATIENCE_S = 120  # for what takes a second on a machine that does nothing else


class RunningServer:
    """A server, its log and its processes."""

    def __init__(self, *command: str, **environment: str) -> None:
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": path} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self.log_text: list[str] = []
        self._news = threading.Condition()
        threading.Thread(target=self._read_log, daemon=True).start()
        self.url = self.wait_for_event("listening")["url"]
        self.port = int(self.url.rpartition(":")[2])

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.log_text.append(line)
                with contextlib.suppress(json.JSONDecodeError):
                    self.log.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self.log.append({"event": "log ended"})
            self._news.notify_all()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in list(self.log) if line["event"] == name]

    def wait_for_event(self, name: str, number: int = 1) -> dict[str, Any]:
        """The first event of a name, or a later one."""
        with self._news:
            done = self._news.wait_for(
                lambda: len(self.events(name)) >= number or bool(self.events("log ended")),
                PATIENCE_S,
            )
            found = self.events(name)
            assert done, f"waited in vain for {name}"
            assert len(found) >= number, f"no {name}:\n{''.join(self.log_text)}"
            return found[number - 1]

    @property
    def scheduler_pid(self) -> int:
        return self.events("scheduler_started")[-1]["pid"]

    def wait_until_ready(self, number: int = 1) -> "RunningServer":
        self.wait_for_event("ready", number)
        wait_for(lambda: httpx.get(f"{self.url}/ready").status_code == 200)
        return self

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=PATIENCE_S)

    def score(self, **body: Any) -> dict[str, Any]:
        """The answer to a request that is good."""
        response = self.post("/v1/score", **body)
        assert response.status_code == 200, response.text
        return response.json()

    @contextlib.contextmanager
    def scheduler_stopped(self) -> Iterator[int]:
        """Holds the scheduler still, so that requests are surely in flight; its process id."""
        pid = self.scheduler_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):  # a test may have killed it
                os.kill(pid, signal.SIGCONT)

    def wait_for_in_flight(self, number: int) -> None:
        """Waits until so many requests are accepted and not answered."""
        wait_for(lambda: self.metric("queue_requests") == number)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values over the label values that are not given."""
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            key, _, value = line.rpartition(" ")
            if key.partition("{")[0] == f"isoprefill_{name}" and all(
                f'{label}="{wanted}"' in key for label, wanted in labels.items()
            ):
                total += float(value)
        return total

    def stop(self) -> int:
        """Asks the server to end and waits for it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def running_server(*flags: str, **environment: str) -> Iterator[RunningServer]:
    """A server with these flags that is ready, ended afterwards whatever happens."""
    with running(*SERVE, *flags, **environment) as server:
        yield server


@contextlib.contextmanager
def running(*command: str, **environment: str) -> Iterator[RunningServer]:
    """The same for a program that is a server."""
    server = RunningServer(*command, **environment)
    try:
        yield server.wait_until_ready()
    finally:
        if server.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # a test may have stopped it
                os.kill(server.scheduler_pid, signal.SIGCONT)
        server.stop()


def wait_for(condition: Any) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
