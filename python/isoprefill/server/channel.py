"""The front end's connection to one scheduler process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

from isoprefill.server import protocol
from isoprefill.server.framing import Frames, framed

Receive = Callable[[protocol.ToFrontEnd], None]


class Channel(asyncio.Protocol):
    """One end of a socket pair, which nothing else reads, writes or closes.

    Each scheduler has a channel of its own: nothing that was meant for one reaches the next. What the scheduler has not
    read waits here without a bound: `Dispatcher` bounds what it has sent and is not known to be done.

    Attributes:
        ended: done when the scheduler's end is closed; holds the exception if a message could not be taken.
    """

    def __init__(self, receive: Receive) -> None:
        """Takes what is called with every message of the scheduler."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receive = receive
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None

    def send(self, message: protocol.ToScheduler) -> None:
        """Sends a message, and waits for nothing; what is sent to a scheduler that is gone is dropped."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(framed(protocol.encode(message)))

    def close(self) -> None:
        """Closes it at once; what the scheduler has not read is dropped."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._frames.feed(data):
                self._receive(protocol.decode_to_front_end(message))
        except Exception as error:
            if not self.ended.done():
                self.ended.set_exception(error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


@contextlib.asynccontextmanager
async def open_channel(receive: Receive) -> AsyncIterator[tuple[Channel, socket.socket]]:
    """Gives a channel, and the socket that its scheduler inherits, which is to be closed here once it has it."""
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(receive)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        try:
            yield channel, theirs
        finally:
            channel.close()
