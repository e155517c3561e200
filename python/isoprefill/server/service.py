"""What the routes work with: the model as the front end knows it, and the way to its scores."""

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from isoprefill.models.tokenizer import Tokenizer
from isoprefill.request.errors import RequestError
from isoprefill.request.preparer import Preparer
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import protocol
from isoprefill.server.api_models import RerankRequest, ScoreRequest
from isoprefill.server.dispatch import RETRY_AFTER_S, Dispatcher, request_timeout
from isoprefill.server.errors import ApiError
from isoprefill.server.limits import BodyReader, ClientGoneError, headers_of
from isoprefill.server.metrics import Metrics
from isoprefill.server.settings import ServerSettings
from isoprefill.server.validation import parse

T = TypeVar("T")
Asked = TypeVar("Asked", ScoreRequest, RerankRequest)

MOST_LABELS = 1 << 20  # of all items of a request, padded: as many scores are answered
# Bytes or characters that take 20 ms; more are parsed, tokenised or written beside the event loop.
LARGE = 64 << 10


@dataclasses.dataclass(eq=False)
class Service:
    """One served model.

    Attributes:
        settings: of the server.
        model_name: what the model is called in answers.
        tokenizer: the model's.
        metrics: the server's counters.
        dispatcher: the way to the scheduler.
        created: when the server started, seconds since 1970.
        preparer: makes requests of text; None until the scheduler has said what the model is like.
        draining: whether the server has been told to end.
    """

    settings: ServerSettings
    model_name: str
    tokenizer: Tokenizer
    metrics: Metrics
    dispatcher: Dispatcher
    created: int
    preparer: Preparer | None = None
    draining: bool = False

    def __post_init__(self) -> None:
        self.bodies = BodyReader(self.settings.limits)
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
        self.preparer = Preparer(
            self.tokenizer, ready.vocab_size, ready.max_positions, ready.pack_tokens
        )

    @property
    def ready(self) -> bool:
        return self.dispatcher.connected and not self.draining

    def check_model(self, name: str | None) -> None:
        """Raises ApiError unless `name` is the served model."""
        if name not in (None, "default", self.model_name):
            raise ApiError(
                "model_not_found",
                f"This server serves {self.model_name!r}, which 'default' also names.",
                "model",
            )

    async def prepared(
        self,
        request: Request,
        kind: type[Asked],
        prepare: Callable[[Asked, Preparer], TokenRequest],
        num_characters: Callable[[Asked], int],
    ) -> tuple[Asked, TokenRequest]:
        """Reads the body and makes a request of it.

        Args:
            request: HTTP's.
            kind: what the body must hold.
            prepare: tokenises.
            num_characters: at least how many will be tokenised, where a short body can mean many.

        Raises:
            ApiError: what is wrong with the request, or why it cannot be taken now.
        """
        preparer = self.preparer
        if preparer is None or not self.dispatcher.connected:
            raise ApiError(
                "model_not_loaded", "The model is being loaded.", retry_after_s=RETRY_AFTER_S
            )
        if self._accepted >= self.settings.limits.max_queue_requests:
            raise ApiError(
                "queue_full",
                f"{self._accepted} requests are waiting, which is as many as this server keeps.",
                retry_after_s=RETRY_AFTER_S,
            )
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ApiError("unsupported_media_type", "The body must be application/json.")
        self._accepted += 1
        try:
            body = await self.bodies.read(
                headers_of(request.scope), request.receive, request.scope["state"]
            )
            async with asyncio.timeout(self.settings.limits.request_timeout_s):
                asked = await self.run(len(body), parse, kind, body)
                size = max(len(body), num_characters(asked))
                return asked, await self.run(size, prepare, asked, preparer)
        except RequestError as error:
            raise ApiError.of(error) from None
        except TimeoutError:
            raise request_timeout(self.settings.limits, "parsed and tokenised") from None
        finally:
            self._accepted -= 1

    async def run(self, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """Does work on so many bytes or characters, beside the event loop if they are many."""
        if size < LARGE:
            return work(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *arguments)

    async def scored(self, request: Request, tokens: TokenRequest) -> RequestLogprobs:
        """The log-probabilities of a request, whose size goes into the metrics and its log line.

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

    def check_size(self, tokens: TokenRequest) -> None:
        """Raises ApiError if the request has more tokens than the server allows."""
        limits = self.settings.limits
        for index, item in enumerate(tokens.items):
            if item.size > limits.max_item_tokens:
                raise ApiError(
                    "too_many_tokens",
                    f"items[{index}] must have at most {limits.max_item_tokens} tokens, got {item.size}",
                    f"items[{index}]",
                )
        number = tokens.num_computed_tokens
        if number > limits.max_request_tokens:
            again = " (the query for every item, with item_first)" if tokens.item_first else ""
            raise ApiError(
                "too_many_tokens",
                f"query and items must have at most {limits.max_request_tokens} tokens together, got {number}{again}",
                "items",
            )

    def check_number_of_items(self, name: str, number: int) -> None:
        """Raises ApiError if there are too many; before anything is tokenised."""
        limit = self.settings.limits.max_items
        if number > limit:
            raise ApiError(
                "too_many_items", f"{name} must hold at most {limit}, got {number}", name
            )

    def check_joint_size(self, num_characters: int) -> None:
        """Raises ApiError if query + item, for all items, are longer than a body that spelt them out could be."""
        limit = self.settings.limits.max_body_bytes
        if num_characters > limit:
            raise ApiError(
                "too_many_tokens",
                f"with tokenization 'joint' all texts query + item must have at most {limit} characters together, "
                f"got {num_characters}",
                "items",
            )

    def check_number_of_labels(self, name: str, labels: Sequence[Any], num_items: int) -> None:
        """Raises ApiError if there are too many for an item, or for all items; before they are padded to one length.

        Args:
            name: of the field.
            labels: for all items, or a list of them for each item.
            num_items: of the request.
        """
        limit = self.settings.limits.max_labels
        lists: list[Sequence[Any]] = [one for one in labels if isinstance(one, list)] or [labels]
        widest = max(map(len, lists))
        if widest > limit:
            raise ApiError(
                "too_many_labels", f"{name} must have at most {limit} labels, got {widest}", name
            )
        number = max(len(lists), num_items)
        if number * widest > MOST_LABELS:
            raise ApiError(
                "too_many_labels",
                f"{name} must be at most {MOST_LABELS} for all items together, once every list is as long as the "
                f"longest, got {number} x {widest}",
                name,
            )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
