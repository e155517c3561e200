"""Sends requests to the scheduler and awaits their results, on the front end's side."""

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import protocol
from isoprefill.server.channel import Channel
from isoprefill.server.errors import ApiError, model_not_loaded, server_ends
from isoprefill.server.metrics import Metrics
from isoprefill.server.settings import Limits

if TYPE_CHECKING:  # needs OpenTelemetry, which need not be there
    from isoprefill.server.tracing import RequestTrace

VECTOR_BYTES = (
    64  # of embedding vectors that count as much as a token: what waits is bounded in bytes too
)
LONGEST_SILENCE_S = (
    5.0  # between beats (`scheduler.BEAT_S`), after which a scheduler counts as stopped
)

STOPPED = "The scoring process stopped while this request was in flight, and is being restarted."


def request_timeout(limits: Limits, done: str = "scored") -> ApiError:
    return ApiError(
        "request_timeout",
        f"The request was not {done} within {limits.request_timeout_s:g} seconds.",
    )


class Dispatcher:
    """Gives requests to the scheduler of the moment and hands its answers back.

    How many requests, and how many tokens, are in flight is bounded here: what is over is refused, not kept. As many
    again may have been given up and not yet be known as such to the scheduler.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        """Takes the bounds; nothing can be submitted before `connected`."""
        self._limits = limits
        self._metrics = metrics
        self._channel: Channel | None = None
        self._restarts = True
        self._numbers = itertools.count(1)
        self._in_flight: dict[int, asyncio.Future[protocol.Scored]] = {}
        # Tokens of the requests that the scheduler has and has not answered: in flight, or given up.
        self._owed: dict[int, int] = {}
        self._tokens = 0
        self._heard = self._beaten = time.monotonic()
        metrics.scheduler_ready.set_function(lambda: self.alive)
        metrics.queue_requests.set_function(lambda: len(self._in_flight))
        metrics.queue_tokens.set_function(lambda: self._tokens)

    @property
    def connected(self) -> bool:
        return self._channel is not None

    @property
    def alive(self) -> bool:
        """Whether there is a scheduler, warm, and heard of lately: it also beats while it computes."""
        return self.connected and time.monotonic() - self._beaten < LONGEST_SILENCE_S

    def connect(self, channel: Channel) -> None:
        """From now on requests go to this scheduler, which is warm."""
        self._channel = channel
        self.beat()

    def beat(self) -> None:
        """Notes a sign of life of the scheduler's process."""
        self._beaten = time.monotonic()

    def disconnect(self, *, restarts: bool) -> None:
        """The scheduler is gone: what it had gets an error at once, which says whether another one comes."""
        self._channel = None
        self._restarts = restarts
        self._owed.clear()
        for answer in list(self._in_flight.values()):
            if not answer.done():
                error = model_not_loaded(STOPPED) if restarts else server_ends()
                answer.set_exception(error)

    def not_loaded(self) -> ApiError:
        """Returns why there is no scheduler."""
        return model_not_loaded() if self._restarts else server_ends()

    def stalled_for(self) -> float:
        """Seconds since the scheduler last said anything, if it owes an answer; else 0.

        It owes one even for requests that were given up: else a scheduler that hangs would never be found out where
        clients give up sooner than the stall timeout.
        """
        return time.monotonic() - self._heard if self._owed else 0.0

    async def submit(
        self, request: TokenRequest, answer_size: int = 0, trace: "RequestTrace | None" = None
    ) -> RequestLogprobs:
        """Has a request scored. Cancelling this takes the request out of the scheduler's queue.

        Args:
            request: what to score.
            answer_size: numbers that come back; they wait like tokens.
            trace: to which the wait and the prefills are added.

        Raises:
            ApiError: no scheduler (model_not_loaded), too much in flight (queue_full), no answer in time
                (request_timeout), or the engine failed (internal_error).
        """
        channel = self._channel
        if channel is None:
            raise self.not_loaded()
        tokens = queue_cost(request, answer_size)
        if self._full(tokens):
            raise ApiError(
                "queue_full",
                f"{len(self._in_flight)} requests with {self._tokens} tokens are waiting: the queue is full.",
            )
        number = next(self._numbers)
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        due = loop.call_later(self._limits.request_timeout_s, self._give_up, answer)
        sent, steps = time.monotonic(), None
        self._in_flight[number] = answer
        self._tokens += tokens
        try:
            channel.send(protocol.Score(number, request))
            if not self._owed:
                self._heard = time.monotonic()  # it had nothing to say
            self._owed[number] = tokens
            scored = await answer
            steps = scored.steps
            return scored.logprobs
        finally:
            due.cancel()
            del self._in_flight[number]
            self._tokens -= tokens
            if trace is not None:
                trace.waited(sent, steps)
            if number in self._owed:  # then the scheduler that has it is still there
                channel.send(protocol.Cancel(number))

    def receive(
        self, message: protocol.Scored | protocol.Failed | protocol.Cancelled | protocol.BatchDone
    ) -> None:
        """Takes a message of the connected scheduler."""
        self._heard = time.monotonic()
        if isinstance(message, protocol.BatchDone):
            # After the answers that came with it: their tasks are in line already.
            asyncio.get_running_loop().call_soon(self._metrics.observe_batch, message)
            return
        self._owed.pop(message.id, None)
        answer = self._in_flight.get(message.id)
        if answer is None or answer.done():  # given up meanwhile
            return
        if isinstance(message, protocol.Scored):
            answer.set_result(message)
        elif isinstance(message, protocol.Failed):
            answer.set_exception(ApiError("internal_error", "The request could not be scored."))

    def _give_up(self, answer: asyncio.Future[protocol.Scored]) -> None:
        if not answer.done():
            answer.set_exception(request_timeout(self._limits))

    def _full(self, tokens: int) -> bool:
        """Whether a request of so many tokens is too much. One that is alone never is."""
        limits = self._limits
        return (
            len(self._in_flight) >= limits.max_queue_requests
            or len(self._owed) >= 2 * limits.max_queue_requests
            or bool(self._in_flight and self._tokens + tokens > limits.max_queue_tokens)
            or bool(self._owed and sum(self._owed.values()) + tokens > 2 * limits.max_queue_tokens)
        )


def queue_cost(request: TokenRequest, answer_size: int) -> int:
    """Returns as how many tokens a request waits: those that are computed, numbers that come back, vectors."""
    vectors = 0 if request.vectors is None else request.vectors.nbytes // VECTOR_BYTES
    return request.num_computed_tokens + answer_size + vectors
