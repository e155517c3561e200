"""HTTP connections with time limits for slow clients, and a limit on their number.

Connections above the limit get an error answer and are closed; above twice the limit they are closed at once.
"""

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from isoprefill.server.settings import Limits

# In a request's state: it is to be refused, and its connection closed.
SURPLUS = "surplus_connection"


def protocol_class(limits: Limits) -> type[H11Protocol]:
    """uvicorn's HTTP protocol with deadlines."""

    class BoundedConnection(H11Protocol):
        """Adds what uvicorn leaves to a proxy: deadlines for headers and for taking the answer, and a bound."""

        def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            self._headers_due: asyncio.TimerHandle | None = None
            self._write_due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # pause_writing then says that anything is left to write; by default the last 64 KB do not count.
            transport.set_write_buffer_limits(0)
            if len(self.connections) > 2 * limits.max_connections:
                transport.abort()
                return
            if len(self.connections) > limits.max_connections:
                self.app_state = {**self.app_state, SURPLUS: True}
            self._headers_due = self.loop.call_later(limits.read_timeout_s, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waiting_for_headers = self.conn.their_state is h11.IDLE
            if not waiting_for_headers:
                _cancel(self._headers_due)
                self._headers_due = None
            elif self._headers_due is None:  # the first bytes of a further request
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
