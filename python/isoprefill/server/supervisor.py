"""Keeps a scheduler process running."""

import asyncio
import dataclasses
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from isoprefill.server import logs, protocol
from isoprefill.server.channel import Channel, open_channel
from isoprefill.server.scheduler import StartMessage
from isoprefill.server.service import Service

# -P: without it -m would look for modules in the working directory first, which may be a model's.
SCHEDULER_COMMAND = (sys.executable, "-P", "-m", "isoprefill.server.scheduler")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
STEADY_S = 60.0  # a scheduler that was ready for so long starts anew without back-off
STOP_S = 5.0


class StartError(RuntimeError):
    """The scheduler cannot start; the message is the reason."""


@dataclasses.dataclass(eq=False)
class Supervisor:
    """Starts the scheduler, starts it again when it ends, with growing pauses, and stops it.

    Attributes:
        service: whose dispatcher is told when there is a scheduler and when it is gone.
        on_ready: called each time a scheduler is warm.
        command: the scheduler's program.
    """

    service: Service
    on_ready: Callable[[protocol.Ready], None]
    command: Sequence[str]
    _was_ready: bool = dataclasses.field(default=False, init=False)
    _channel: Channel | None = dataclasses.field(default=None, init=False)

    async def run(self) -> None:
        """Runs until it is cancelled.

        Raises:
            ValueError: the settings do not go with the model; says which.
            StartError: the scheduler ended before it was ever ready.
        """
        pause = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            async with open_channel(self._receive) as (self._channel, inherited):
                await self._one_scheduler(self._channel, inherited)
            if time.monotonic() - began > STEADY_S:
                pause = FIRST_PAUSE_S
            logs.event("scheduler_restart", pause_s=pause)
            self.service.metrics.scheduler_restarts.inc()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _one_scheduler(self, channel: Channel, inherited: socket.socket) -> None:
        """Runs one scheduler from its start to its end."""
        process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": _python_path()},
            pass_fds=[inherited.fileno()],
            start_new_session=True,  # a terminal's Ctrl-C is for the front end
        )
        logs.event("scheduler_started", pid=process.pid)
        ended = asyncio.create_task(process.wait())
        assert process.stdin is not None
        assert process.stdout is not None
        listening = asyncio.create_task(self._listen(process.stdout))
        try:
            start = StartMessage(
                socket=inherited.fileno(),
                engine=self.service.settings.engine,
                warmup_tokens=self.service.settings.warmup_tokens,
                batch=self.service.settings.batch,
                log_format=self.service.settings.log_format,
            )
            inherited.close()
            process.stdin.write(msgspec.json.encode(start) + b"\n")
            garbled = False
            while not ended.done():
                watched = [one for one in (ended, channel.ended) if not one.done()]
                await asyncio.wait(watched, timeout=1.0, return_when="FIRST_COMPLETED")
                if channel.ended.done() and not garbled:
                    garbled = self._garbled(channel)
                stalled_s = self.service.dispatcher.stalled_for()
                if garbled:
                    process.kill()
                    await ended
                elif stalled_s > self.service.settings.limits.stall_timeout_s:
                    logs.event("scheduler_stalled", pid=process.pid)
                    process.kill()
                    await ended
            # Its last word may be why it could not start.
            await asyncio.wait([channel.ended], timeout=STOP_S)
            if channel.ended.done() and not garbled:
                self._garbled(channel)
            logs.event("scheduler_ended", pid=process.pid, status=process.returncode)
            if not self._was_ready:
                raise StartError(f"the scheduler process ended with status {process.returncode}")
        finally:
            self.service.dispatcher.disconnect(restarts=not self.service.draining)
            await _stop(process)
            listening.cancel()
            await asyncio.gather(ended, listening, return_exceptions=True)

    def _garbled(self, channel: Channel) -> bool:
        """Whether the scheduler sent what could not be taken: then it is not to be trusted, and is started again.

        Raises:
            ValueError, StartError: it was its first word: it would not be another the next time.
        """
        error = channel.ended.exception()
        if error is None:
            return False
        if not self._was_ready:
            if isinstance(error, msgspec.MsgspecError):
                raise StartError("the scheduler process sent what is no message") from None
            raise error
        logs.event("scheduler_garbled", logging.ERROR, **logs.exception_fields(error))
        return True

    async def _listen(self, beats: asyncio.StreamReader) -> None:
        while await beats.read(4096):
            self.service.dispatcher.beat()

    def _receive(self, message: protocol.ToFrontEnd) -> None:
        if isinstance(message, protocol.Ready):
            logs.event(
                "ready",
                device=message.device,
                seconds=round(message.warmup_s, 3),
                compilations=message.compilations,
            )
            self.service.metrics.compilations.inc(message.compilations)
            self.on_ready(message)
            self._was_ready = True
            assert self._channel is not None
            self.service.dispatcher.connect(self._channel)
        elif isinstance(message, protocol.NotStarted):
            if not self._was_ready:
                raise (ValueError if message.by_settings else StartError)(message.reason)
            logs.event("scheduler_not_started", reason=message.reason)
        else:
            self.service.dispatcher.receive(message)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ends the process: it ends by itself when its standard input closes, or is killed."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _python_path() -> str:
    """This process's module path: under Bazel it is not the environment's."""
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
