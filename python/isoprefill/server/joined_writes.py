"""A connection's transport that sends an answer's head and body together, and closes so that the answer is read."""

import asyncio
from collections.abc import Callable
from typing import Any

LINGER_BYTES = 64 << 20  # that are read and dropped after the last answer


class JoinedWrites:
    """Sends at once what is written in one turn of the event loop, so that the client is woken once.

    Otherwise it is the transport that it was made of.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_sent_more: Callable[[], bool] = lambda: False,
        linger_s: float = 0.0,
    ) -> None:
        """Takes a transport, which nothing else may write to or close.

        Args:
            transport: of a connection.
            loop: its event loop.
            is_sent_more: whether the client may be sending what nobody will read.
            linger_s: how long it then may go on after the connection is closed.
        """
        self._transport = transport
        self._loop = loop
        self._is_sent_more = is_sent_more
        self._linger_s = linger_s
        self._parts: list[bytes] = []
        self._lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends these bytes with those that follow."""
        if not self._parts:
            self._loop.call_soon(self.send)
        self._parts.append(data)

    def is_closing(self) -> bool:
        """Whether it is closed, or will be when the client has sent what it was sending."""
        return self._lingers or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Reads no more, unless it only reads to drop it."""
        if not self._lingers:
            self._transport.pause_reading()

    def close(self) -> None:
        """Sends what is written, and closes the connection.

        Where more is sent it says that it ends, and drops what comes until the client ends too, or its time is up: a
        socket that is closed with bytes unread is reset, and the client loses the answer that it has not read. If it is
        called again, the connection is closed at once.
        """
        self.send()
        if self.is_closing() or not self._is_sent_more():
            self._transport.close()
            return
        self._lingers = True
        end = self._loop.call_later(self._linger_s, self._transport.abort)
        self._transport.set_protocol(_Lingering(self._transport, end))
        self._transport.resume_reading()
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset it
            self._transport.abort()

    def send(self) -> None:
        """Sends what is written, now."""
        parts, self._parts = self._parts, []
        if parts:
            # Not writelines: since Python 3.12 it takes no notice of a connection that is lost, and watches its file,
            # which may be another connection's by then; nor does it say that something is left to write.
            self._transport.write(b"".join(parts))


class _Lingering(asyncio.Protocol):
    """Drops what comes, up to a bound; all else it leaves to the protocol that the connection had."""

    def __init__(self, transport: asyncio.Transport, end: asyncio.TimerHandle) -> None:
        protocol = transport.get_protocol()
        assert isinstance(protocol, asyncio.Protocol)
        self._transport, self._protocol, self._end = transport, protocol, end
        self._left = LINGER_BYTES

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._end.cancel()
        self._protocol.connection_lost(error)
