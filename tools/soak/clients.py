"""Clients of the server under test: patient ones, slow ones, and those that vanish."""

import collections
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Sequence

from soak.requests import KnownRequest

PATIENCE_S = 240.0  # longer than the server may take for anything
# Answers that are not scores, and right under these faults.
EXPECTED_CODES = {"queue_full", "model_not_loaded", "request_timeout", "request_read_timeout"}


class Tally:
    """What came of all requests."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def fault(self, text: str) -> None:
        """Notes what must not happen."""
        with self._lock:
            self.counts["faults"] += 1
            self.faults = [*self.faults, text][:20]


class Client:
    """Sends random requests until it is told to end."""

    def __init__(
        self, port: int, requests: Sequence[KnownRequest], seed: str, tally: Tally
    ) -> None:
        self._port = port
        self._requests = requests
        self._generator = random.Random(seed)
        self._tally = tally
        self.sent_at: float | None = None  # of the request that is on its way

    def run(self, end: threading.Event) -> None:
        """Sends requests one after another, with pauses."""
        while not end.is_set():
            known = self._generator.choice(self._requests)
            kind = self._generator.random()
            self.sent_at = time.monotonic()
            if kind < 0.80:
                self.ask(known, pause=0.0)
            elif kind < 0.90:
                self.ask(known, pause=self._generator.uniform(0.01, 0.3))
            else:
                self._vanish(known)
            self.sent_at = None
            end.wait(self._generator.expovariate(2.0))

    def ask(self, known: KnownRequest, pause: float) -> None:
        """Sends a request, in pieces if there is a pause between them, and checks the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        kind = "slow" if pause else "patient"
        self._tally.count(kind)
        began, step = time.monotonic(), "connecting"
        try:
            connection.connect()
            step = "sending"
            connection.putrequest("POST", "/v1/score")
            connection.putheader("content-type", "application/json")
            connection.putheader("content-length", str(len(known.body)))
            connection.endheaders()
            size = max(1, len(known.body) // 10) if pause else len(known.body)
            for begin in range(0, len(known.body), size):
                time.sleep(pause)
                connection.send(known.body[begin : begin + size])
            step = "waiting"
            response = connection.getresponse()
            step = "reading"
            status, body = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            seconds = time.monotonic() - began
            self._tally.fault(
                f"no answer: {type(error).__name__} while {step}, {kind}, after {seconds:.1f} s"
            )
            return
        finally:
            connection.close()
        if status == 200:
            self._tally.count("scored")
            if not known.is_answered_by(body):
                self._tally.fault("scores that are not the serial ones")
            return
        code = json.loads(body)["error"]["code"]
        self._tally.count(code)
        if code not in EXPECTED_CODES:
            self._tally.fault(f"answer {status} {code}")

    def _vanish(self, known: KnownRequest) -> None:
        """Sends a request, or a part of one, and is gone before the answer."""
        self._tally.count("vanished")
        head = (
            "POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(known.body)}\r\n\r\n"
        ).encode()
        message = head + known.body
        part = self._generator.choice([len(message), len(message) // 2, len(head) // 2])
        try:
            with socket.create_connection(("127.0.0.1", self._port), PATIENCE_S) as connection:
                connection.sendall(message[:part])
                time.sleep(self._generator.uniform(0, 0.3))
        except OSError as error:
            self._tally.fault(f"no connection: {type(error).__name__}")
