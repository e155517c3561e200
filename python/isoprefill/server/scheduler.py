"""The scheduler process: owns the device and the engine, packs waiting requests, scores them.

    python -m isoprefill.server.scheduler

The front end starts it, writes one line of JSON (`StartMessage`) to its standard input and keeps that open: when it
closes, however the front end ended, this process ends too, within `LAST_SECONDS` even if it is computing. It writes a
byte to its standard output every `BEAT_S`, also while it computes, so that a process that is stopped is noticed.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from isoprefill.execution.algorithms import PLANS
from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.execution.failures import failure_of
from isoprefill.execution.packing import item_groups
from isoprefill.execution.warm_up import batches_of_sizes
from isoprefill.models.config.classes import Classes
from isoprefill.models.sources.pinned import FetchError
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import logs, protocol
from isoprefill.server.batching import Line, Slice
from isoprefill.server.scheduler_channel import FrontEndGoneError, SchedulerChannel
from isoprefill.server.settings import BatchSettings, LogFormat

BEAT_S = 0.5
LAST_SECONDS = 2.0  # for an orderly end: a device that is let go, measurements that are written


class StartMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What the front end writes to the process's standard input."""

    socket: int  # the inherited file that is the channel
    engine: EngineSettings
    warmup_tokens: tuple[int, ...]
    batch: BatchSettings
    log_format: LogFormat


class Engine(Protocol):
    """An engine as the scheduler knows it; `isoprefill.server.device` has the one that computes."""

    vocab_size: int
    max_positions: int
    pack_tokens: int
    hidden_size: int
    classes: Classes | None
    device: str
    compilations: int

    def score(self, requests: Sequence[TokenRequest]) -> list[RequestLogprobs]:
        """Returns the log-probabilities of several requests, in their order."""


def run(make_engine: Callable[[EngineSettings], Engine]) -> None:
    """Runs the process until its standard input closes."""
    # Ctrl-C reaches every process of a terminal; the front end decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        _serve(make_engine)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Python's end would show where it was


def _serve(make_engine: Callable[[EngineSettings], Engine]) -> None:
    stdin = sys.stdin.buffer
    start = msgspec.json.decode(stdin.readline(), type=StartMessage)
    end_with = threading.Thread(target=_end_with, args=(stdin.fileno(),), daemon=True)
    end_with.start()
    logs.configure(start.log_format, "scheduler")
    threading.Thread(target=_beat, args=(sys.stdout.fileno(),), daemon=True).start()
    with (
        socket.socket(fileno=start.socket) as connection,
        contextlib.suppress(FrontEndGoneError),
    ):
        connection.set_inheritable(False)
        channel = SchedulerChannel(connection)
        began = time.monotonic()
        engine = started(make_engine, start.engine, start.warmup_tokens)
        if isinstance(engine, protocol.NotStarted):
            channel.send(engine)
            return
        ready = protocol.Ready(
            vocab_size=engine.vocab_size,
            max_positions=engine.max_positions,
            pack_tokens=engine.pack_tokens,
            hidden_size=engine.hidden_size,
            classes=engine.classes,
            device=engine.device,
            warmup_s=time.monotonic() - began,
            compilations=engine.compilations,
        )
        channel.send(ready)
        Scheduler(channel, engine, start.batch).run()


def started(
    make_engine: Callable[[EngineSettings], Engine],
    settings: EngineSettings,
    warmup_tokens: Sequence[int],
) -> Engine | protocol.NotStarted:
    """Returns a warm engine, or why there is none."""
    try:
        engine = make_engine(settings)
        warm_up(engine, warmup_tokens)
    except Exception as error:
        reason = failure_of(error)
        if reason is None and isinstance(error, ValueError | FetchError | OSError):
            reason = str(error)
        if reason is None:
            logs.event("engine_failed", **logs.exception_fields(error))
            reason = f"the engine could not be started: {type(error).__name__}"
        return protocol.NotStarted(reason, by_settings=isinstance(error, ValueError))
    return engine


class Scheduler:
    """Receives requests, forms batches, answers. One thread: while a batch is computed, requests wait in the socket."""

    def __init__(self, channel: SchedulerChannel, engine: Engine, settings: BatchSettings) -> None:
        """Takes a channel and a warm engine."""
        self._channel = channel
        self._engine = engine
        self._settings = settings
        self._line = Line(settings)

    def run(self) -> None:
        """Runs until the front end is gone."""
        while True:
            due = self._line.due()
            wait_s = None if due is None else max(0.0, due - time.monotonic())
            for message in self._channel.receive(wait_s):
                if isinstance(message, protocol.Cancel):
                    self._line.cancel(message.id)
                    self._channel.send(protocol.Cancelled(message.id))
                else:
                    self._line.add(message.id, message.request, time.monotonic())
            due = self._line.due()
            if due is not None and due <= time.monotonic():
                self._score_batch(self._line.take())

    def _score_batch(self, batch: list[Slice]) -> None:
        began = time.monotonic()
        before = self._engine.compilations
        try:
            results: list[RequestLogprobs | Exception] = list(
                self._engine.score([one.request for one in batch])
            )
        except Exception as error:
            results = [error] if len(batch) == 1 else [self._alone(one) for one in batch]
        ended, tokens = time.monotonic(), sum(one.cost for one in batch)
        done = [
            (one.request, result)
            for one, result in zip(batch, results, strict=True)
            if not isinstance(result, Exception)
        ]
        over_prefix = item_groups(
            [request for request, result in done if PLANS[result.algorithm].over_prefix]
        )
        batch_done = protocol.BatchDone(
            requests=len(batch),
            tokens=tokens,
            budget=self._settings.max_tokens,
            seconds=ended - began,
            cached_tokens=sum(result.cached_tokens for _, result in done),
            query_tokens=sum(group.cacheable_prefix.size for group in over_prefix),
            compilations=self._engine.compilations - before,
            waiting=len(self._line),
        )
        answers: list[protocol.ToFrontEnd] = []
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                logs.event(
                    "request_failed",
                    request_id=one.request.request_id,
                    **logs.exception_fields(result),
                )
                self._line.cancel(one.waiting.id)
                answers.append(protocol.Failed(one.waiting.id))
                continue
            one.waiting.parts.append(result)
            step = protocol.Step(
                began=began,
                ended=ended,
                items=len(one.request.items),
                tokens=one.cost,
                batch_requests=len(batch),
                batch_tokens=tokens,
                cached_tokens=result.cached_tokens,
                algorithm=result.algorithm,
            )
            one.waiting.steps.append(step)
            if one.waiting.finished:
                logprobs = RequestLogprobs.joined(one.waiting.parts)
                steps = tuple(one.waiting.steps)
                answers.append(protocol.Scored(one.waiting.id, logprobs, steps))
        self._channel.send(*answers, batch_done)  # which is counted when they have left

    def _alone(self, one: Slice) -> RequestLogprobs | Exception:
        """Scores a request of a failed batch by itself, so that only the one at fault fails."""
        try:
            return self._engine.score([one.request])[0]
        except Exception as error:
            return error


def warm_up(engine: Engine, sizes: Sequence[int]) -> None:
    """Scores batches of these sizes, so that no request of such a size waits for a compilation."""
    for size in sizes:
        if size > engine.max_positions:
            raise ValueError(
                f"warmup-tokens must be at most the model's {engine.max_positions} positions, got {size}"
            )
    for batch in batches_of_sizes(sizes, engine.vocab_size, labels=engine.classes is None):
        engine.score(batch)


def _beat(stdout: int) -> None:
    with contextlib.suppress(OSError):  # the front end is gone
        while True:
            os.write(stdout, b".")
            time.sleep(BEAT_S)


def _end_with(stdin: int) -> None:
    """Ends this process when the front end closes its standard input, or is gone.

    Takes the file's number: a thread that waits in a buffered read holds a lock, without which Python cannot end.
    """
    while os.read(stdin, 4096):
        pass
    # Wakes the main thread where it waits; while it computes, it does not listen.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(LAST_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    from isoprefill.server.device import make_engine

    run(make_engine)
