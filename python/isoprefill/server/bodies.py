"""Bodies of HTTP requests, within bounds of size, time and memory."""

import asyncio
from typing import Any

from starlette.types import Message, Receive, Scope

from isoprefill.server.errors import ApiError
from isoprefill.server.settings import Limits

# Of a body that is refused: read and dropped, so that the client sees the answer.
DRAIN_BYTES = 64 << 20
DRAIN_S = 5.0
BODIES_AT_ONCE = 16  # largest bodies that may be in memory together
HELD = "held_bytes"  # in a request's state: of its body


class BodyReader:
    """Reads the bodies of requests, within bounds."""

    def __init__(self, limits: Limits) -> None:
        """Takes the bounds."""
        self._limits = limits
        self._held = 0

    async def read(
        self, headers: dict[bytes, bytes], receive: Receive, state: dict[str, Any]
    ) -> bytes:
        """Returns the whole body. It counts as held until `release`: what is made of it lives as long as its request.

        Args:
            headers: of the request.
            receive: ASGI's.
            state: of the request; remembers how much is held.

        Raises:
            ApiError: it is too large, comes too slowly, or too many are being read.
            ClientGoneError: the client has closed the connection.
        """
        limit = self._limits.max_body_bytes
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise self._too_large()
        chunks: list[bytes] = []
        state[HELD] = 0
        try:
            async with asyncio.timeout(self._limits.read_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    chunk = message.get("body", b"")
                    self._held += len(chunk)
                    state[HELD] += len(chunk)
                    if state[HELD] > limit:
                        raise self._too_large()
                    if self._held > BODIES_AT_ONCE * limit:
                        raise ApiError(
                            "queue_full", "Too many large requests are waiting.", retry_after_s=1.0
                        )
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise ApiError(
                "request_read_timeout",
                f"The body did not arrive within {self._limits.read_timeout_s:g} seconds.",
            ) from None

    def release(self, state: dict[str, Any]) -> None:
        """Gives back what the body of an answered request held, by the request's state."""
        self._held -= state.pop(HELD, 0)

    def _too_large(self) -> ApiError:
        return ApiError(
            "body_too_large", f"The body has more than {self._limits.max_body_bytes} bytes."
        )


class ClientGoneError(Exception):
    """The client has closed the connection and reads no answer."""


class TrackedReceive:
    """ASGI's receive, which also knows whether all of the request's body has come."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes]) -> None:
        """Wraps what a server gives."""
        self._receive = receive
        self._headers = headers
        self.finished = False
        length = headers.get(b"content-length", b"0")
        self.has_body = length != b"0" or b"transfer-encoding" in headers

    async def __call__(self) -> Message:
        message = await self._receive()
        self.finished = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drop_rest(self) -> None:
        """Reads what is left of a refused body, up to a bound, and drops it.

        A client that is still sending when the connection closes sees a reset instead of the answer.
        """
        declared = self._headers.get(b"content-length", b"")
        if b"expect" in self._headers or (declared.isdigit() and int(declared) > DRAIN_BYTES):
            return
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_S):
                while left > 0 and not self.finished:
                    left -= len((await self()).get("body", b""))
        except TimeoutError:
            return


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers; of one that is there several times, the last."""
    return dict(scope["headers"])
