"""Requests to a server with small bounds, over plain sockets where a client library would be too polite."""

import concurrent.futures
import contextlib
import socket
from typing import Any

import httpx

from running_server import RunningServer

BODY: dict[str, Any] = {"query": "abc", "items": ["x", "yz"]}
QUEUE = 8
BOUNDED = (
    f"--max-queue-requests={QUEUE}",
    "--max-queue-tokens=1000",
    "--max-body-bytes=4000000",
    "--max-connections=40",
    "--read-timeout=2",
    "--write-timeout=2",
)


def send(
    server: RunningServer,
    number: int,
    pool: concurrent.futures.Executor,
    body: dict[str, Any] = BODY,
) -> list["concurrent.futures.Future[httpx.Response]"]:
    """Sends requests at once and waits until all of them are in flight."""
    sent = [pool.submit(server.post, "/v1/score", **body) for _ in range(number)]
    server.wait_for_in_flight(number)
    return sent


def scores(server: RunningServer, body: dict[str, Any] = BODY) -> list[float]:
    return [one["score"] for one in server.score(**body)["scores"]]


def connect(server: RunningServer) -> socket.socket:
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
