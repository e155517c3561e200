"""Sends HTTP requests at given times, whether or not earlier ones are answered, and reports each answer's latency.

It is a program of its own, so that it takes no time from what it measures. Standard input is one JSON object
    {"port": 30000, "path": "/v1/score", "bodies": ["{…}", …], "times": [0.0, …]}
with seconds from the start, ascending; standard output is a list of [latency in seconds, HTTP status] in that order.
Latency counts from the time at which the request was due: a request that had to wait here waited too. Status 0 is a
request that got no answer.
"""

import asyncio
import json
import selectors
import sys
from typing import Any

HEAD_END = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """A connection, on which one request is asked at a time. No streams: they would take longer than the server."""

    def __init__(self) -> None:
        """Begins unconnected."""
        self._received = bytearray()
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def ask(self, request: bytes) -> "asyncio.Future[int]":
        """Sends a request; returns what becomes its answer's status when the whole answer has been read."""
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(HEAD_END)
        if end < 0 or self._answer is None:
            return
        lines = bytes(self._received[:end]).lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        if len(self._received) == end + len(HEAD_END) + int(headers[b"content-length"]):
            self._answer.set_result(int(lines[0].split()[1]))
            self._answer = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("no answer"))


class Connections:
    """Connections that are kept and reused; as many as there are requests in flight."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, request: bytes) -> int:
        """Sends a request and reads the whole answer; returns its status."""
        connection = self._take()
        if connection is None:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        status = await connection.ask(request)
        self._idle.append(connection)
        return status

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():  # nor has the server closed it
                return connection
        return None


def http_request(path: str, body: str) -> bytes:
    content = body.encode()
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    ).encode() + content


async def run(plan: dict[str, Any]) -> list[tuple[float, int]]:
    connections = Connections(plan["port"])
    requests = [http_request(plan["path"], body) for body in plan["bodies"]]
    loop = asyncio.get_running_loop()
    start = loop.time() + 0.1

    async def one(at: float, request: bytes) -> tuple[float, int]:
        await asyncio.sleep(start + at - loop.time())
        try:
            status = await connections.ask(request)
        except OSError:
            status = 0
        return loop.time() - start - at, status

    return await asyncio.gather(*map(one, plan["times"], requests))


def event_loop() -> asyncio.AbstractEventLoop:
    """Returns a loop that wakes when a request is due: epoll, asyncio's own choice, wakes up to 1 ms later."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=event_loop) as runner:
        json.dump(runner.run(run(json.load(sys.stdin))), sys.stdout)
