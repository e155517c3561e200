"""The scheduler's connection to the front end."""

import math
import select
import socket
from collections.abc import Iterator

from isoprefill.server import protocol
from isoprefill.server.framing import Frames, framed

READ_BYTES = 1 << 18


class FrontEndGoneError(Exception):
    """The front end has closed its end of the channel, or has ended."""


class SchedulerChannel:
    """The other end of a `Channel`."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes a connected socket, which nothing else may read or write."""
        self._socket = connection
        self._frames = Frames()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def receive(self, wait_s: float | None) -> Iterator[protocol.ToScheduler]:
        """Waits so long for messages, None without an end, and gives all that are there.

        Raises:
            FrontEndGoneError: none will come.
        """
        if not self._poll.poll(None if wait_s is None else math.ceil(wait_s * 1000)):
            return
        data = b""
        while not data or len(data) == READ_BYTES:
            try:
                data = self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                raise FrontEndGoneError from None
            if not data:
                raise FrontEndGoneError
            yield from map(protocol.decode_to_scheduler, self._frames.feed(data))

    def send(self, *messages: protocol.ToFrontEnd) -> None:
        """Sends messages at once, so that the front end is woken once.

        Raises:
            FrontEndGoneError: nobody will read them.
        """
        try:
            self._socket.sendall(framed(*map(protocol.encode, messages)))
        except OSError:
            raise FrontEndGoneError from None
