"""Which log-probabilities a pack has to give, and whose they are. Importing this does not import jax."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int32

from isoprefill.execution.packing import Piece
from isoprefill.modes import Algorithm
from isoprefill.request.errors import MissingLogprobError
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """The log-probabilities that a pack has to give: M rows, up to K tokens at each.

    First come the tokens of all items whose tokens count, one a row; then, for all items with labels, the labels.

    Attributes:
        pack: the items.
        rows: rows of the pack; -1 is the last row of a cached prefix.
        token_ids: the tokens at each row; what a row does not need is 0.
        num_token_rows: how many of the rows are for items' tokens.
    """

    pack: Sequence[Piece]
    rows: Int32[np.ndarray, "M"]
    token_ids: Int32[np.ndarray, "M K"]
    num_token_rows: int

    @classmethod
    def of(
        cls,
        pack: Sequence[Piece],
        first_rows: Int32[np.ndarray, "n"],
        context_rows: Int32[np.ndarray, "n"],
    ) -> "Readout":
        """The read-out of a pack.

        Args:
            pack: the items.
            first_rows: the first row of each item, in pack order.
            context_rows: the row that predicts each item's first token.
        """
        token_rows, tokens = [], []
        label_rows, labels = [], []
        item = 0
        for piece in pack:
            lens = np.asarray([one.size for one in piece.items], np.int32)
            first = first_rows[item : item + lens.size]
            if _needs_tokens(piece.request):
                # An item's first token is predicted by the row before the item, the others by the item itself.
                ends = np.cumsum(lens)
                starts = ends - lens
                rows = np.repeat(first - starts, lens) + np.arange(ends[-1], dtype=np.int32) - 1
                rows[starts] = context_rows[item : item + lens.size]
                token_rows.append(rows)
                tokens.append(np.concatenate(piece.items))
            if piece.request.labels is not None:
                label_rows.append(first + lens - 1)
                ids = piece.request.labels.for_items(piece.indices)
                labels.append(ids.reshape(lens.size, -1))
            item += lens.size
        num_token_rows = sum(rows.size for rows in token_rows)
        rows = np.concatenate([*token_rows, *label_rows]).astype(np.int32)
        width = max([1, *(ids.shape[1] for ids in labels)])
        token_ids = np.zeros((rows.size, width), np.int32)
        if tokens:
            token_ids[:num_token_rows, 0] = np.concatenate(tokens)
        begin = num_token_rows
        for ids in labels:
            token_ids[begin : begin + ids.shape[0], : ids.shape[1]] = np.maximum(ids, 0)
            begin += ids.shape[0]
        return cls(pack, rows, token_ids, num_token_rows)

    def scatter(
        self, logprobs: Float[np.ndarray, "M K"], collected: Sequence["CollectedLogprobs"]
    ) -> None:
        """Hands each log-probability to the request that it belongs to."""
        logprobs = np.asarray(logprobs, np.float64)
        token, label = 0, self.num_token_rows
        for piece in self.pack:
            of_request = collected[piece.request_index]
            if _needs_tokens(piece.request):
                ends = np.cumsum([item.size for item in piece.items])
                of_piece = logprobs[token : token + ends[-1], 0]
                of_request.add_tokens(piece.indices, np.split(of_piece, ends[:-1]))
                token += ends[-1]
            if piece.request.labels is not None:
                ids = piece.request.labels.for_items(piece.indices)
                of_piece = logprobs[label : label + ids.shape[0], : ids[0].size].reshape(ids.shape)
                of_request.add_labels(
                    piece.indices, _log_sum(np.where(ids >= 0, of_piece, -np.inf))
                )
                label += ids.shape[0]


class CollectedLogprobs:
    """What has been computed of one request so far."""

    def __init__(self, request: TokenRequest) -> None:
        """Begins with nothing."""
        num_items = len(request.items)
        self._request = request
        self._token_logprobs: list[np.ndarray | None] = [None] * num_items
        labels = request.labels
        shape = (num_items,) if labels is None else (num_items, labels.token_ids.shape[1])
        self._logprobs = np.full(shape, np.nan)

    def add_tokens(
        self, indices: Int32[np.ndarray, "n"], logprobs: Sequence[Float64[np.ndarray, "tokens"]]
    ) -> None:
        """The log-probabilities of some items' tokens."""
        request = self._request
        for index, of_item in zip(indices, logprobs, strict=True):
            if request.item_context_lens is not None:
                of_item = of_item[request.item_context_lens[index] :]
            if request.labels is None:
                self._logprobs[index] = of_item.sum()
            if request.return_token_logprobs:
                self._token_logprobs[index] = of_item.copy()

    def add_labels(
        self, indices: Int32[np.ndarray, "n"], logprobs: Float64[np.ndarray, "n L"]
    ) -> None:
        """The log-probabilities of some items' labels."""
        self._logprobs[indices] = logprobs

    def result(self, algorithm: Algorithm, reason: str, cached_tokens: int) -> RequestLogprobs:
        """Everything, if nothing is missing.

        Raises:
            MissingLogprobError: naming the request and the first item that has none, or not a number.
        """
        request = self._request
        missing = np.isnan(self._logprobs.reshape(len(request.items), -1)).any(axis=1)
        token_logprobs = None
        if request.return_token_logprobs:
            token_logprobs = tuple(of for of in self._token_logprobs if of is not None)
            missing |= [of is None or bool(np.isnan(of).any()) for of in self._token_logprobs]
        if missing.any():
            name = f"request {request.request_id!r}: " if request.request_id else ""
            raise MissingLogprobError(
                f"{name}items[{np.flatnonzero(missing)[0]}] has no log-probability: the model gave none or NaN"
            )
        if request.labels is not None:
            num_tokens = np.ones(len(request.items), np.int32)
            num_labels = request.labels.num_labels(len(request.items))
        else:
            scored = [request.query] * len(request.items) if request.item_first else request.items
            num_tokens = np.asarray([tokens.size for tokens in scored], np.int32)
            if request.item_context_lens is not None:
                num_tokens -= request.item_context_lens
            num_labels = None
        return RequestLogprobs(
            logprobs=self._logprobs,
            num_tokens=num_tokens,
            num_labels=num_labels,
            token_logprobs=token_logprobs,
            algorithm=algorithm,
            reason=reason,
            cached_tokens=cached_tokens,
        )


def _needs_tokens(request: TokenRequest) -> bool:
    return request.labels is None or request.return_token_logprobs


def _log_sum(logprobs: Float64[np.ndarray, "n L S"]) -> Float64[np.ndarray, "n L"]:
    """log(sum(exp(x))) over the tokens of each label; -inf if there are none."""
    if logprobs.shape[2] == 1:
        return logprobs[:, :, 0]
    return np.logaddexp.reduce(logprobs, axis=2)
