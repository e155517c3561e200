"""The messages between front end and scheduler: in msgpack, one after another over a pair of sockets.

    front end                          scheduler
                     <- Ready          model loaded and warm (or NotStarted: why it is not)
    Score(id, …)     ->                waits in the scheduler's queue
    Cancel(id)       ->                leaves the queue, if it is still there
                     <- Scored(id, …)  or Failed(id)
                     <- BatchDone      one for each prefill, for the metrics

Ids count up from 1 and are the front end's own: a client's request id is never trusted to be unique. Requests and
results travel as the dataclasses that they are, with each array as its dtype, shape and bytes. What arrives is of the
right types and keeps the invariants of its class, or `msgspec.ValidationError` is raised.
"""

from typing import Any

import msgspec
import numpy as np

from isoprefill.models.config.classes import Classes
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest


class Score(msgspec.Struct, tag="score", array_like=True, frozen=True):
    """A request to score."""

    id: int
    request: TokenRequest


class Cancel(msgspec.Struct, tag="cancel", array_like=True, frozen=True):
    """The client has gone, or its time is up: the request need not be scored."""

    id: int


class Ready(msgspec.Struct, tag="ready", array_like=True, frozen=True):
    """The model is loaded and warm."""

    vocab_size: int
    max_positions: int
    pack_tokens: int
    hidden_size: int
    classes: Classes | None
    device: str
    warmup_s: float
    compilations: int


class NotStarted(msgspec.Struct, tag="not_started", array_like=True, frozen=True):
    """The engine cannot be made; the process ends after saying so.

    Attributes:
        reason: why not.
        by_settings: whether other settings would help.
    """

    reason: str
    by_settings: bool


class Step(msgspec.Struct, array_like=True, frozen=True):
    """One prefill from the view of one request that had items in it.

    Attributes:
        began, ended: seconds of the monotonic clock, which both processes share.
        items, tokens: of the request in it, its query included.
        batch_requests, batch_tokens: of all that was in it.
        cached_tokens: of the query that the prefix cache had.
        algorithm: that computed it.
    """

    began: float
    ended: float
    items: int
    tokens: int
    batch_requests: int
    batch_tokens: int
    cached_tokens: int
    algorithm: str


class Scored(msgspec.Struct, tag="scored", array_like=True, frozen=True):
    """What `ScoringEngine.score_batch` returned for one request, and the prefills that it took."""

    id: int
    logprobs: RequestLogprobs
    steps: tuple[Step, ...] = ()


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
        query_tokens: that it was searched for, which only some algorithms do.
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


_DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in ("<i4", "<f4", "<f8")}

ToScheduler = Score | Cancel
ToFrontEnd = Ready | NotStarted | Scored | Failed | Cancelled | BatchDone


def _encode_array(array: Any) -> tuple[str, tuple[int, ...], memoryview]:
    return array.dtype.str, array.shape, np.ascontiguousarray(array).data


def _decode_array(kind: type, value: Any) -> np.ndarray:
    """The array; msgspec then checks it against the field's type, `kind`, which names the dtype and the axes."""
    try:
        dtype, shape, data = value
        return np.frombuffer(data, _DTYPES[dtype]).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{kind} must be dtype, shape and bytes: {error!r}") from None


encode = msgspec.msgpack.Encoder(enc_hook=_encode_array).encode
decode_to_scheduler = msgspec.msgpack.Decoder(ToScheduler, dec_hook=_decode_array).decode
decode_to_front_end = msgspec.msgpack.Decoder(ToFrontEnd, dec_hook=_decode_array).decode
