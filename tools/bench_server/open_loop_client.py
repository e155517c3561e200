"""Sends HTTP requests at given times, whether or not earlier ones are answered, and reports each answer's latency.

It is a program of its own, so that it takes no time from what it measures. Standard input is one JSON object
    {"port": 30000, "path": "/v1/score", "bodies": ["{…}", …], "times": [0.0, …]}
with seconds from the start, ascending; standard output is a list of [latency in seconds, HTTP status] in that order.
Latency counts from the time at which the request was due: a request that had to wait here waited too. Status 0 is a
request that got no answer.
"""

import asyncio
import json
import sys
from typing import Any

HEAD_END = b"\r\n\r\n"


class Connections:
    """Connections that are kept and reused; as many as there are requests in flight."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> int:
        """Sends a request and reads the whole answer; returns its status."""
        reader, writer = self._take() or await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        head = await reader.readuntil(HEAD_END)
        lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(headers[b"content-length"]))
        self._idle.append((reader, writer))
        return int(lines[0].split()[1])

    def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # the server has not closed it
                return reader, writer
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
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        return loop.time() - start - at, status

    return await asyncio.gather(*map(one, plan["times"], requests))


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
