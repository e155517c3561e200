"""What front end and scheduler say to each other over ZeroMQ: msgpack structs, one a message.

    front end                          scheduler
                     <- Ready          model loaded and warm (or NotStarted: why it is not)
    Score(id, …)     ->                waits in the scheduler's queue
    Cancel(id)       ->                leaves the queue, if it is still there
                     <- Scored(id, …)  or Failed(id)
                     <- BatchDone      one for each prefill, for the metrics

Ids count up from 1 and are the front end's own: a client's request id is never trusted to be unique.
"""

import msgspec
import numpy as np
from jaxtyping import Float64, Int32

from isoprefill.modes import Algorithm, Delimiter, Isolation
from isoprefill.request.labels import LabelSets
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest


class Score(msgspec.Struct, tag="score", array_like=True, frozen=True):
    """A request to score; arrays are little-endian bytes."""

    id: int
    request_id: str
    tokens: bytes  # int32: the query, then the items one after another
    lengths: bytes  # int32: of the query and of each item
    labels: bytes | None  # int32 [lists, L, S]
    labels_shape: tuple[int, int, int] | None
    isolation: Isolation
    delimiter: Delimiter
    delimiter_id: int | None
    item_first: bool
    item_context_lens: bytes | None  # int32 [N]
    return_token_logprobs: bool

    @classmethod
    def of(cls, number: int, request: TokenRequest) -> "Score":
        labels = None if request.labels is None else request.labels.token_ids
        parts = (request.query, *request.items)
        return cls(
            id=number,
            request_id=request.request_id,
            tokens=_int32_bytes(np.concatenate(parts)),
            lengths=_int32_bytes(np.asarray([part.size for part in parts])),
            labels=None if labels is None else _int32_bytes(labels),
            labels_shape=None if labels is None else labels.shape,
            isolation=request.isolation,
            delimiter=request.delimiter,
            delimiter_id=request.delimiter_id,
            item_first=request.item_first,
            item_context_lens=None
            if request.item_context_lens is None
            else _int32_bytes(request.item_context_lens),
            return_token_logprobs=request.return_token_logprobs,
        )

    def token_request(self) -> TokenRequest:
        parts = np.split(_int32(self.tokens), np.cumsum(_int32(self.lengths))[:-1])
        labels = None
        if self.labels is not None and self.labels_shape is not None:
            labels = LabelSets(_int32(self.labels).reshape(self.labels_shape))
        return TokenRequest(
            parts[0],
            tuple(parts[1:]),
            labels=labels,
            isolation=self.isolation,
            delimiter=self.delimiter,
            delimiter_id=self.delimiter_id,
            item_first=self.item_first,
            item_context_lens=None
            if self.item_context_lens is None
            else _int32(self.item_context_lens),
            return_token_logprobs=self.return_token_logprobs,
            request_id=self.request_id,
        )


class Cancel(msgspec.Struct, tag="cancel", array_like=True, frozen=True):
    """Nobody waits for this request any more."""

    id: int


class Ready(msgspec.Struct, tag="ready", array_like=True, frozen=True):
    """The model is loaded and warm."""

    vocab_size: int
    max_positions: int
    pack_tokens: int
    device: str
    warmup_s: float
    compilations: int


class NotStarted(msgspec.Struct, tag="not_started", array_like=True, frozen=True):
    """The engine cannot be made from these settings; the process ends after saying so."""

    reason: str


class Scored(msgspec.Struct, tag="scored", array_like=True, frozen=True):
    """What `ScoringEngine.score_batch` returned for one request."""

    id: int
    logprobs: bytes  # float64 [N] or [N, L]
    num_tokens: bytes  # int32 [N]
    num_labels: bytes | None  # int32 [N]
    token_logprobs: tuple[bytes, ...] | None  # float64 [tokens] for each item
    algorithm: Algorithm
    reason: str
    cached_tokens: int

    @classmethod
    def of(cls, number: int, result: RequestLogprobs) -> "Scored":
        return cls(
            id=number,
            logprobs=_float64_bytes(result.logprobs),
            num_tokens=_int32_bytes(result.num_tokens),
            num_labels=None if result.num_labels is None else _int32_bytes(result.num_labels),
            token_logprobs=None
            if result.token_logprobs is None
            else tuple(map(_float64_bytes, result.token_logprobs)),
            algorithm=result.algorithm,
            reason=result.reason,
            cached_tokens=result.cached_tokens,
        )

    def logprobs_of_request(self) -> RequestLogprobs:
        num_tokens = _int32(self.num_tokens)
        logprobs = _float64(self.logprobs)
        return RequestLogprobs(
            logprobs=logprobs if self.num_labels is None else logprobs.reshape(num_tokens.size, -1),
            num_tokens=num_tokens,
            num_labels=None if self.num_labels is None else _int32(self.num_labels),
            token_logprobs=None
            if self.token_logprobs is None
            else tuple(map(_float64, self.token_logprobs)),
            algorithm=self.algorithm,
            reason=self.reason,
            cached_tokens=self.cached_tokens,
        )


class Failed(msgspec.Struct, tag="failed", array_like=True, frozen=True):
    """The engine raised an exception on this request alone."""

    id: int


class Cancelled(msgspec.Struct, tag="cancelled", array_like=True, frozen=True):
    """A `Cancel` was read: the scheduler owes nothing for this request any more."""

    id: int


class BatchDone(msgspec.Struct, tag="batch", array_like=True, frozen=True):
    """One prefill: what was in it, for the metrics.

    Attributes:
        requests: how many, of which there may be slices.
        tokens: of all of them.
        budget: the most tokens that a batch should have.
        seconds: that it took.
        cached_tokens: that the prefix cache had.
        query_tokens: that it was asked for: by some algorithms only.
        compilations: programs compiled meanwhile.
        waiting: requests left in line.
    """

    requests: int
    tokens: int
    budget: int
    seconds: float
    cached_tokens: int
    query_tokens: int
    compilations: int
    waiting: int


ToScheduler = Score | Cancel
ToFrontEnd = Ready | NotStarted | Scored | Failed | Cancelled | BatchDone

encode = msgspec.msgpack.Encoder().encode
decode_to_scheduler = msgspec.msgpack.Decoder(ToScheduler).decode
decode_to_front_end = msgspec.msgpack.Decoder(ToFrontEnd).decode


def _int32_bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, "<i4").tobytes()


def _float64_bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, "<f8").tobytes()


def _int32(data: bytes) -> Int32[np.ndarray, "n"]:
    return np.frombuffer(data, "<i4")


def _float64(data: bytes) -> Float64[np.ndarray, "n"]:
    return np.frombuffer(data, "<f8")
