"""Keeps a scheduler process running."""

import asyncio
import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import msgspec
import zmq.asyncio

from isoprefill.server import logs, protocol
from isoprefill.server.channel import Channel
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

    async def run(self) -> None:
        """Runs until it is cancelled.

        Raises:
            ValueError: the settings do not go with the model; says which.
            StartError: the scheduler ended before it was ever ready.
        """
        pause = FIRST_PAUSE_S
        with _private_directory() as directory, zmq.asyncio.Context() as context:
            for generation in range(1, sys.maxsize):
                address = f"ipc://{directory}/{generation}"
                # A Score and a Cancel each, and as many that were given up: `Dispatcher`.
                max_messages = 4 * self.service.settings.limits.max_queue_requests + 64
                with contextlib.closing(Channel(context, address, max_messages)) as channel:
                    began = time.monotonic()
                    await self._one_scheduler(channel, address)
                if time.monotonic() - began > STEADY_S:
                    pause = FIRST_PAUSE_S
                logs.event("scheduler_restart", pause_s=pause)
                self.service.metrics.scheduler_restarts.inc()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _one_scheduler(self, channel: Channel, address: str) -> None:
        """Runs one scheduler from its start to its end."""
        process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": _python_path()},
            start_new_session=True,  # a terminal's Ctrl-C is for the front end
        )
        logs.event("scheduler_started", pid=process.pid)
        receiving = asyncio.create_task(self._receive(channel))
        ended = asyncio.create_task(process.wait())
        assert process.stdin is not None
        assert process.stdout is not None
        listening = asyncio.create_task(self._listen(process.stdout))
        try:
            start = StartMessage(
                address=address,
                engine=self.service.settings.engine,
                batch=self.service.settings.batch,
                log_format=self.service.settings.log_format,
            )
            process.stdin.write(msgspec.json.encode(start) + b"\n")
            while not ended.done():
                await asyncio.wait({ended, receiving}, timeout=1.0, return_when="FIRST_COMPLETED")
                if receiving.done():
                    receiving.result()
                if (
                    self.service.dispatcher.stalled_for()
                    > self.service.settings.limits.stall_timeout_s
                ):
                    logs.event("scheduler_stalled", pid=process.pid)
                    process.kill()
                    await ended
            logs.event("scheduler_ended", pid=process.pid, status=process.returncode)
            if not self._was_ready:
                raise StartError(f"the scheduler process ended with status {process.returncode}")
        finally:
            self.service.dispatcher.disconnect()
            receiving.cancel()
            await _stop(process)
            listening.cancel()
            await asyncio.gather(receiving, ended, listening, return_exceptions=True)

    async def _listen(self, beats: asyncio.StreamReader) -> None:
        while await beats.read(4096):
            self.service.dispatcher.beat()

    async def _receive(self, channel: Channel) -> None:
        while True:
            message = await channel.receive()
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
                self.service.dispatcher.connect(channel)
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


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    """Makes a directory that only this user may enter; others must not reach the sockets in it."""
    parent = tempfile.gettempdir()
    if len(parent) > 60:  # a socket's path has 107 bytes
        parent = "/tmp"
    return tempfile.TemporaryDirectory(prefix="isoprefill-", dir=parent, ignore_cleanup_errors=True)


def _python_path() -> str:
    """This process's module path: under Bazel it is not the environment's."""
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
