"""HTTP connections with time limits for slow clients, and a limit on their number.

Connections above the limit get an error answer and are closed; above twice the limit they are closed at once.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from isoprefill.server.joined_writes import JoinedWrites
from isoprefill.server.settings import Limits

# In a request's state: it is to be refused, and its connection closed.
SURPLUS = "surplus_connection"
# The parser reads on when a request is complete, so it gets little at once: what follows a request that is being
# answered waits as bytes, not as requests.
PIECE_BYTES = 2048
MOST_HEAD_BYTES = 64 << 10  # of a request's line and headers, of a chunk's, and of trailers


def protocol_class(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol with deadlines."""

    class BoundedConnection(HttpToolsProtocol):
        """Adds what uvicorn leaves to a proxy: deadlines for headers and for taking the answer, and bounds."""

        def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            self._headers_due: asyncio.TimerHandle | None = None
            self._write_due: asyncio.TimerHandle | None = None
            self._unread = b""
            self._between_requests = True
            self._in_head = True
            self._head_bytes = 0
            self._offers_upgrade = False
            self._broken = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._joined = JoinedWrites(
                transport, self.loop, self._is_sent_more, limits.read_timeout_s
            )
            super().connection_made(self._joined)  # type: ignore[arg-type]
            # pause_writing then says that anything is left to write; by default the last 64 KB do not count.
            transport.set_write_buffer_limits(0)
            if len(self.connections) > 2 * limits.max_connections:
                transport.abort()
                return
            if len(self.connections) > limits.max_connections:
                self.app_state = {**self.app_state, SURPLUS: True}
            self._set_headers_due()

        def data_received(self, data: bytes) -> None:
            self._unset_keepalive_if_required()
            self._unread += data
            self._read()

        def on_response_complete(self) -> None:
            self._joined.send()
            super().on_response_complete()
            if self._broken:
                self._refuse()
            elif self._unread:
                self._unset_keepalive_if_required()
                self._read()
            self._set_headers_due()

        def _read(self) -> None:
            """Parses what has arrived, up to a request that waits for the answer of another."""
            begin, data, self._unread = 0, self._unread, b""
            if self._between_requests:  # the first bytes of a further request
                self._in_head = True
            while begin < len(data) and not (
                self.pipeline or self._broken or self.transport.is_closing()
            ):
                piece = data[begin : begin + PIECE_BYTES]
                begin += len(piece)
                self._head_bytes += len(piece)  # set to 0 wherever there is no head
                try:
                    self.parser.feed_data(piece)
                except httptools.HttpParserUpgrade as upgrade:
                    rest = begin - len(piece) + upgrade.args[0]
                    data, begin = self._head_without_upgrade() + data[rest:], 0
                except httptools.HttpParserError:
                    self._broken = True
                self._broken |= self._head_bytes > MOST_HEAD_BYTES
            if self._broken and not (self._in_head and self._answering):
                self._refuse()
            elif begin < len(data) and not self.transport.is_closing():
                self._unread = data[begin:]
                self.flow.pause_reading()
            self._set_headers_due()

        def _is_sent_more(self) -> bool:
            """Whether the client is in the middle of a request, or has sent what was not read."""
            return not self._between_requests or self._broken or bool(self._unread)

        def shutdown(self) -> None:
            super().shutdown()
            if self.transport.is_closing():
                self._joined.close()  # at once

        @property
        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _refuse(self) -> None:
            if not self.transport.is_closing():
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._between_requests = False
            self._in_head = True
            self._head_bytes = 0

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_head:  # else it is a trailer
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            hosts = sum(name == b"host" for name, _ in self.headers)
            if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
                raise ValueError("a request has one Host header")
            self._offers_upgrade = self.parser.should_upgrade()
            if not self._offers_upgrade:
                super().on_headers_complete()
            elif self.parser.get_method() == b"CONNECT":
                raise ValueError("this is no proxy")
            self._in_head = False

        def on_body(self, body: bytes) -> None:
            super().on_body(body)
            self._head_bytes = 0

        def on_message_complete(self) -> None:
            self._between_requests = True
            self._head_bytes = 0
            if not self._offers_upgrade:
                super().on_message_complete()

        def _head_without_upgrade(self) -> bytes:
            """Returns the head that was read last without its offer to change the protocol, for a new parser.

            The parser does not read the body of a request that makes the offer, as Java's client does in each.
            """
            method, version = self.parser.get_method(), self.parser.get_http_version()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
            lines += [b"%s: %s" % one for one in self.headers if one[0] != b"upgrade"]
            return b"\r\n".join([*lines, b"", b""])

        def _set_headers_due(self) -> None:
            """Sets a deadline for the rest of the headers, or takes it back if that is not what comes next."""
            if not self._in_head or self._answering:
                _cancel(self._headers_due)
                self._headers_due = None
            elif self._headers_due is None:
                self._headers_due = self.loop.call_later(
                    limits.read_timeout_s, self.transport.abort
                )

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._write_due is None:
                self._write_due = self.loop.call_later(limits.write_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            _cancel(self._write_due)
            self._write_due = None

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            _cancel(self._headers_due)
            _cancel(self._write_due)

    return BoundedConnection


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
