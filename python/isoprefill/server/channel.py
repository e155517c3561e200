"""The front end's connection to one scheduler process."""

import asyncio

import zmq
import zmq.asyncio

from isoprefill.server import logs, protocol


class Channel:
    """A bound ZeroMQ socket, which nothing else reads, writes or closes.

    Each scheduler has a channel of its own: nothing that was meant for one reaches the next.
    """

    def __init__(self, context: zmq.asyncio.Context, address: str, max_messages: int) -> None:
        """Binds the socket.

        Args:
            context: ZeroMQ's.
            address: where the scheduler will connect.
            max_messages: that wait in each direction; `send` then waits too.
        """
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.set_hwm(max_messages)
        self._socket.bind(address)
        self._closed = False

    def close(self) -> None:
        """Closes the socket; what waits in `send` ends."""
        self._closed = True
        self._socket.close()

    async def send(self, message: protocol.ToScheduler) -> None:
        """Sends a message, or waits until there is room for it or the channel is closed."""
        try:
            await self._socket.send(protocol.encode(message))
        except (asyncio.CancelledError, zmq.ZMQError):
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise

    def send_soon(self, message: protocol.ToScheduler) -> None:
        """Sends a message without waiting for it; a failure is only logged."""
        sent = self._socket.send(protocol.encode(message))
        if isinstance(sent, asyncio.Future):
            sent.add_done_callback(_log_failure)

    async def receive(self) -> protocol.ToFrontEnd:
        """Returns the scheduler's next message."""
        return protocol.decode_to_front_end(await self._socket.recv())


def _log_failure(sent: "asyncio.Future[object]") -> None:
    if not sent.cancelled() and sent.exception() is not None:
        logs.event("cancel_not_sent")
