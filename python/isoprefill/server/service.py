"""One served model: what the front end knows about it, and how it obtains scores."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from isoprefill.models.sources.description import ModelDescription
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.request.model_limits import ModelLimits
from isoprefill.request.preparer import Preparer
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.rerank.prompted_model import PromptedModel
from isoprefill.server import protocol
from isoprefill.server.bodies import BodyMemory, ClientGoneError
from isoprefill.server.dispatch import Dispatcher, request_timeout
from isoprefill.server.errors import ApiError
from isoprefill.server.metrics import Metrics
from isoprefill.server.rerank.start import make_reranker
from isoprefill.server.settings import ServerSettings

if TYPE_CHECKING:  # needs OpenTelemetry, which need not be there
    from isoprefill.server.tracing import RequestTrace, Tracing

T = TypeVar("T")

# Bytes or characters that take 20 ms; more are parsed, tokenised or written beside the event loop.
LARGE = 64 << 10
AT_ONCE = 16  # scoring requests of one client's request that wait together


@dataclasses.dataclass(eq=False)
class Service:
    """One served model.

    Attributes:
        settings: of the server.
        model_names: what requests may call the model; the first is its name in answers.
        model_name: the model's own name.
        tokenizer: the model's.
        description: what the model's files say of it.
        preparer: makes requests of text; None until the scheduler has said what the model is like.
        reranker: makes requests of documents; None as the preparer, and if the server does not rerank.
        draining: whether the server has been told to end.
        created: when the server started, seconds since 1970.
        metrics: the server's counters.
        dispatcher: the way to the scheduler.
        tracing: makes traces of requests; None makes none.
    """

    settings: ServerSettings
    model_name: str
    tokenizer: Tokenizer
    description: ModelDescription = dataclasses.field(default_factory=ModelDescription)
    preparer: Preparer | None = None
    reranker: PromptedModel | None = None
    draining: bool = False
    tracing: "Tracing | None" = None

    def __post_init__(self) -> None:
        self.model_names = self.settings.served_model_name or (self.model_name,)
        self.created = int(time.time())
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(self.settings.limits, self.metrics)
        self.body_memory = BodyMemory(self.settings.limits)
        self._threads = concurrent.futures.ThreadPoolExecutor(2, "prepare")
        self._accepted = 0

    def on_ready(self, ready: protocol.Ready) -> None:
        """Takes what the scheduler says of the model.

        Raises:
            ValueError: a setting does not go with the model.
        """
        token = self.settings.delimiter_token_id
        if token is not None and token >= ready.vocab_size:
            raise ValueError(
                f"delimiter-token-id must be less than the model's vocabulary of {ready.vocab_size}, got {token}"
            )
        limits = ModelLimits(
            ready.vocab_size,
            ready.max_positions,
            ready.pack_tokens,
            ready.hidden_size,
            ready.classes,
        )
        self.preparer = Preparer(self.tokenizer, limits)
        self.reranker = make_reranker(self.settings, self.description, self.preparer)

    @property
    def ready(self) -> bool:
        return self.dispatcher.alive and not self.draining

    def check_model(self, name: str | None) -> None:
        """Raises ApiError unless `name` is one of the served model's."""
        if name not in (None, "default", *self.model_names):
            names = " and ".join(map(repr, (*self.model_names[1:], "default")))
            raise ApiError(
                "model_not_found",
                f"This server serves only {self.model_names[0]!r}; other names for it: {names}.",
                "model",
            )

    @contextlib.contextmanager
    def accepted(self) -> Iterator[Preparer]:
        """Counts a request while it is read and its text becomes tokens; gives what makes tokens of it.

        Raises:
            ApiError: there is no model yet, or too many requests are being prepared.
        """
        if self.preparer is None or not self.dispatcher.connected:
            raise self.dispatcher.not_loaded()
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

    def deadline(self) -> float:
        """Returns when a request that has just arrived must be parsed and tokenised, by the event loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.limits.request_timeout_s

    async def run(
        self, size: int, work: Callable[..., T], *arguments: Any, until: float | None = None
    ) -> T:
        """Does work on so many bytes or characters, beside the event loop if they are many.

        Raises:
            ApiError: it was not done until then.
        """
        if size < LARGE:
            return work(*arguments)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(until):
                return await loop.run_in_executor(self._threads, work, *arguments)
        except TimeoutError:
            raise request_timeout(self.settings.limits, "parsed and tokenised") from None

    async def scored(
        self, request: Request, requests: Sequence[TokenRequest], answer_sizes: Sequence[int]
    ) -> list[RequestLogprobs]:
        """Returns the log-probabilities of scoring requests, whose sizes go into the metrics and the log line.

        Args:
            request: of HTTP.
            requests: what it asks for; a bounded number of them are in the queue together.
            answer_sizes: of each, see `Dispatcher.submit`.

        Raises:
            ApiError: see `Dispatcher.submit`.
            ClientGoneError: the client did not wait; the request has left the queue.
        """
        task = asyncio.current_task()
        assert task is not None
        gone = asyncio.ensure_future(request.receive())  # nothing more comes but a disconnect
        waiting, left = True, False

        def leave(_: object) -> None:
            nonlocal left
            if waiting:
                left = task.cancel()

        gone.add_done_callback(leave)
        try:
            trace = request.scope["state"].get("trace")
            results = await self._all_scored(requests, answer_sizes, trace)
        except asyncio.CancelledError:
            if left and task.uncancel() == 0:
                raise ClientGoneError from None
            raise
        finally:
            waiting = False
            gone.cancel()
        loop = asyncio.get_running_loop()
        for tokens, result in zip(requests, results, strict=True):  # counted after a small answer
            loop.call_soon(self.metrics.observe_scored, tokens, result)
        request.scope["state"]["log"] |= {
            "items": sum(len(tokens.items) for tokens in requests),
            "tokens": sum(tokens.num_tokens for tokens in requests),
        }
        return results

    async def _all_scored(
        self,
        requests: Sequence[TokenRequest],
        answer_sizes: Sequence[int],
        trace: "RequestTrace | None",
    ) -> list[RequestLogprobs]:
        """Scores requests side by side; the first failure ends them all."""
        if len(requests) == 1:
            return [await self.dispatcher.submit(requests[0], answer_sizes[0], trace)]
        room = asyncio.Semaphore(AT_ONCE)

        async def scored(tokens: TokenRequest, answer_size: int) -> RequestLogprobs:
            async with room:
                return await self.dispatcher.submit(tokens, answer_size, trace)

        both = zip(requests, answer_sizes, strict=True)
        tasks = [asyncio.ensure_future(scored(tokens, size)) for tokens, size in both]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Ends what runs beside requests, and sends the last traces."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self.tracing is not None:
            self.tracing.close()
