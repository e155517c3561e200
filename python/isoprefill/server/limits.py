"""What keeps a client from taking more than its share: body size, time to send it, rate, and the key."""

import asyncio
import collections
import hashlib
import hmac
import time
from typing import Any

from starlette.types import Message, Receive, Scope

from isoprefill.server.errors import ApiError
from isoprefill.server.settings import Limits

DRAIN_BYTES = (
    64 << 20
)  # of a body that is refused: read and dropped, so that the client sees the answer
DRAIN_S = 5.0
REMEMBERED_CLIENTS = 10_000
BODIES_AT_ONCE = 16  # largest bodies that may be held in memory together
HELD = "held_bytes"  # in a request's state: of its body


class ApiKey:
    """The key that clients must send. Only its digest is kept."""

    def __init__(self, key: str) -> None:
        """Takes the key."""
        self._digest = hashlib.sha256(key.encode()).digest()

    def check(self, headers: dict[bytes, bytes]) -> None:
        """Raises ApiError unless the request carries the key."""
        scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
        # Digests have one length, so that not even the key's length shows in the time that this takes.
        matches = hmac.compare_digest(hashlib.sha256(sent.strip()).digest(), self._digest)
        if scheme.lower() != b"bearer" or not matches:
            raise ApiError("invalid_api_key", "The API key is missing or wrong.")


class RateLimiter:
    """A token bucket for each client address."""

    def __init__(self, rate: float, burst: int) -> None:
        """Takes requests per second, and how many may come at once."""
        self._rate = rate
        self._burst = burst
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def check(self, client: str, now: float | None = None) -> None:
        """Counts a request.

        Raises:
            ApiError: the client has used up its share; says when there is more.
        """
        now = time.monotonic() if now is None else now
        level, seen = self._buckets.pop(client, (float(self._burst), now))
        level = min(self._burst, level + (now - seen) * self._rate)
        allowed = level >= 1
        self._buckets[client] = (level - 1 if allowed else level, now)
        if len(self._buckets) > REMEMBERED_CLIENTS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise ApiError(
                "rate_limit_exceeded",
                f"More than {self._rate:g} requests per second.",
                retry_after_s=(1 - level) / self._rate,
            )


class BodyReader:
    """Reads the bodies of requests, within bounds."""

    def __init__(self, limits: Limits) -> None:
        """Takes the bounds."""
        self._limits = limits
        self._held = 0

    async def read(
        self, headers: dict[bytes, bytes], receive: Receive, state: dict[str, Any]
    ) -> bytes:
        """The whole body. It counts as held until `release`: what is made of it lives as long as its request.

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
        """The request with this state has been answered."""
        self._held -= state.pop(HELD, 0)

    def _too_large(self) -> ApiError:
        return ApiError(
            "body_too_large", f"The body has more than {self._limits.max_body_bytes} bytes."
        )


class ClientGoneError(Exception):
    """The client has closed the connection: nobody reads an answer."""


class TrackedReceive:
    """ASGI's receive, which knows whether all of the request's body has come."""

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
        """Reads what is left of a body that nobody wants, up to a bound.

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
