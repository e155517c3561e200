"""Reads the bodies of HTTP requests, within limits on size, time and memory."""

import asyncio
import dataclasses

from starlette.types import Message, Receive

from isoprefill.server.errors import ApiError
from isoprefill.server.settings import Limits

# Of a body that is refused: read and dropped before the answer, so that the connection can be kept.
DRAIN_BYTES = 64 << 20
DRAIN_S = 5.0
BODIES_AT_ONCE = 16  # largest bodies that may be in memory together


class ClientGoneError(Exception):
    """The client has closed the connection and reads no answer."""


@dataclasses.dataclass
class BodyMemory:
    """The bytes of all bodies that are in memory together, and the bounds of each."""

    limits: Limits
    held_bytes: int = 0


class Body:
    """The body of one request. Called, it is ASGI's receive of that request."""

    def __init__(self, memory: BodyMemory, headers: dict[bytes, bytes], receive: Receive) -> None:
        """Takes the memory that it counts against, the request's headers and the server's receive."""
        self._memory = memory
        self._receive = receive
        self._held_bytes = 0
        self._left = False
        length = headers.get(b"content-length", b"0")
        self._declared_bytes = int(length) if length.isdigit() else 0
        self._client_waits = b"expect" in headers  # it sends nothing before it is told to
        self.exists = length != b"0" or b"transfer-encoding" in headers
        self.finished = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.finished = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def read(self) -> bytes:
        """Returns the whole body. It counts as held until `release`: what is made of it lives as long as its request.

        Raises:
            ApiError: it is too large, comes too slowly, or too many are being read.
            ClientGoneError: the client has closed the connection.
        """
        limits = self._memory.limits
        too_large = ApiError(
            "body_too_large", f"The body has more than {limits.max_body_bytes} bytes."
        )
        if self._declared_bytes > limits.max_body_bytes:
            raise too_large
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(limits.read_timeout_s):
                while not self.finished:
                    message = await self()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    chunk = message.get("body", b"")
                    self._held_bytes += len(chunk)
                    self._memory.held_bytes += len(chunk)
                    if self._held_bytes > limits.max_body_bytes:
                        raise too_large
                    if self._memory.held_bytes > BODIES_AT_ONCE * limits.max_body_bytes:
                        raise ApiError("queue_full", "Too many large requests are waiting.")
                    chunks.append(chunk)
        except TimeoutError:
            raise ApiError(
                "request_read_timeout",
                f"The body did not arrive within {limits.read_timeout_s:g} seconds.",
            ) from None
        return b"".join(chunks)

    def leave_rest(self) -> None:
        """From now on `drop_rest` reads nothing: there is no time left to wait for a client."""
        self._left = True

    async def drop_rest(self) -> None:
        """Reads what is left of a refused body, up to a bound, and drops it.

        If it is not all, the connection must be closed after the answer (`JoinedWrites.close`).
        """
        if self._left or self._client_waits or self._declared_bytes > DRAIN_BYTES:
            return
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_S):
                while left > 0 and not self.finished:
                    left -= len((await self()).get("body", b""))
        except TimeoutError:
            return

    def release(self) -> None:
        """Gives back the memory of a request that has been answered."""
        self._memory.held_bytes -= self._held_bytes
        self._held_bytes = 0
