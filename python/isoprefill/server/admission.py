"""Who may send requests, and how many: the API key and the rate limit."""

import collections
import hashlib
import hmac
import time

from isoprefill.server.errors import ApiError

OPEN_PATHS = ("/health", "/ready", "/metrics")  # without a key
REMEMBERED_CLIENTS = 10_000


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
