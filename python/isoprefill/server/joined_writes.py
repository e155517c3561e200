"""A connection's transport that sends an answer's head and body together."""

import asyncio
from typing import Any


class JoinedWrites:
    """Sends at once what is written in one turn of the event loop, so that the client is woken once.

    Otherwise it is the transport that it was made of.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Takes a transport, which nothing else may write to or close."""
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends these bytes with those that follow."""
        if not self._parts:
            self._loop.call_soon(self.send)
        self._parts.append(data)

    def close(self) -> None:
        """Sends what is written, and closes the connection."""
        self.send()
        self._transport.close()

    def send(self) -> None:
        """Sends what is written, now."""
        parts, self._parts = self._parts, []
        if parts:
            # Not writelines: since Python 3.12 it takes no notice of a connection that is lost, and watches its file,
            # which may be another connection's by then; nor does it say that something is left to write.
            self._transport.write(b"".join(parts))
