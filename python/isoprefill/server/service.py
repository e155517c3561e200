"""One served model: what the front end knows about it, and how it obtains scores."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from starlette.requests import Request

from isoprefill.models.tokenizer import Tokenizer
from isoprefill.request.preparer import Preparer
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import protocol
from isoprefill.server.bodies import BodyMemory, ClientGoneError
from isoprefill.server.dispatch import Dispatcher
from isoprefill.server.errors import ApiError
from isoprefill.server.metrics import Metrics
from isoprefill.server.settings import ServerSettings

T = TypeVar("T")

# Bytes or characters that take 20 ms; more are parsed, tokenised or written beside the event loop.
LARGE = 64 << 10


@dataclasses.dataclass(eq=False)
class Service:
    """One served model.

    Attributes:
        settings: of the server.
        model_name: what the model is called in answers.
        tokenizer: the model's.
        preparer: makes requests of text; None until the scheduler has said what the model is like.
        draining: whether the server has been told to end.
        created: when the server started, seconds since 1970.
        metrics: the server's counters.
        dispatcher: the way to the scheduler.
    """

    settings: ServerSettings
    model_name: str
    tokenizer: Tokenizer
    preparer: Preparer | None = None
    draining: bool = False

    def __post_init__(self) -> None:
        self.created = int(time.time())
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(self.settings.limits, self.metrics)
        self.body_memory = BodyMemory(self.settings.limits)
        self._threads = concurrent.futures.ThreadPoolExecutor(2, "prepare")
        self._accepted = 0

    def on_ready(self, ready: protocol.Ready) -> Preparer:
        """Takes what the scheduler says of the model; returns what makes requests for it.

        Raises:
            ValueError: a setting does not go with the model.
        """
        token = self.settings.delimiter_token_id
        if token is not None and token >= ready.vocab_size:
            raise ValueError(
                f"delimiter-token-id must be less than the model's vocabulary of {ready.vocab_size}, got {token}"
            )
        self.preparer = Preparer(
            self.tokenizer, ready.vocab_size, ready.max_positions, ready.pack_tokens
        )
        return self.preparer

    @property
    def ready(self) -> bool:
        return self.dispatcher.alive and not self.draining

    def check_model(self, name: str | None) -> None:
        """Raises ApiError unless `name` is the served model."""
        if name not in (None, "default", self.model_name):
            raise ApiError(
                "model_not_found",
                f"This server serves only {self.model_name!r}; 'default' is another name for it.",
                "model",
            )

    @contextlib.contextmanager
    def accepted(self) -> Iterator[Preparer]:
        """Counts a request while it is read and its text becomes tokens; gives what makes tokens of it.

        Raises:
            ApiError: there is no model yet, or too many requests are being prepared.
        """
        if self.preparer is None or not self.dispatcher.connected:
            raise ApiError("model_not_loaded", "The model is being loaded.")
        if self._accepted >= self.settings.limits.max_queue_requests:
            raise ApiError(
                "queue_full",
                f"{self._accepted} requests are waiting: the queue is full.",
            )
        self._accepted += 1
        try:
            yield self.preparer
        finally:
            self._accepted -= 1

    async def run(self, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """Does work on so many bytes or characters, beside the event loop if they are many."""
        if size < LARGE:
            return work(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *arguments)

    async def scored(self, request: Request, tokens: TokenRequest) -> RequestLogprobs:
        """Returns the log-probabilities of a request, whose size goes into the metrics and its log line.

        Raises:
            ApiError: see `Dispatcher.submit`.
            ClientGoneError: the client did not wait; the request has left the queue.
        """
        answer = asyncio.ensure_future(self.dispatcher.submit(tokens))
        gone = asyncio.ensure_future(request.receive())  # nothing more comes but a disconnect
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientGoneError
            result = answer.result()
        finally:
            gone.cancel()
            if not answer.done():
                answer.cancel()
                await asyncio.gather(answer, return_exceptions=True)
        self.metrics.observe_scored(tokens, result)
        request.scope["state"]["log"] |= {"items": len(tokens.items), "tokens": tokens.num_tokens}
        return result

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
