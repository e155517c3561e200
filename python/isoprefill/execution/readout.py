"""Which log-probabilities to read from a pack, and to which request and item each belongs."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from isoprefill.attention.layout import PackedLayout
from isoprefill.execution.algorithms import Choice
from isoprefill.execution.item_readout import branches_of, item_rows
from isoprefill.execution.packing import ItemGroup, Pack
from isoprefill.models.config.classes import Classes
from isoprefill.models.decoder.head import LARGEST_LOGPROB, LARGEST_TOKEN
from isoprefill.request.errors import MissingLogprobError
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest

_LARGEST = np.asarray([LARGEST_LOGPROB, LARGEST_TOKEN], np.int32)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """The log-probabilities that a pack has to give: M rows, up to K tokens at each.

    First come the tokens of all items whose tokens count, one a row; then, for all items with labels, the labels.

    Attributes:
        pack: the items.
        rows: rows of the pack; -1 is the last row of a cached prefix.
        token_ids: the tokens at each row, or what stands for the largest (`models/decoder/head.py`); what a row does
            not need is 0.
        num_token_rows: how many of the rows are for items' tokens.
    """

    pack: Pack
    rows: Int32[np.ndarray, "M"]
    token_ids: Int32[np.ndarray, "M K"]
    num_token_rows: int

    @classmethod
    def of(cls, pack: Pack, layout: PackedLayout) -> "Readout":
        """Returns the read-out of a pack with this layout."""
        tokens, labels = [], []  # rows, and up to K token ids at each
        for group, branches in branches_of(pack):
            lens = np.asarray([item.size for item in group.items], np.int32)
            firsts = group.branches.firsts
            first_rows = layout.item_first_rows[branches][firsts]
            context_rows = layout.item_context_rows[branches][firsts]
            if _needs_tokens(group.request):
                # An item's first token is predicted by the row before the item, the others by the item itself.
                ends = np.cumsum(lens)
                starts = ends - lens
                rows = np.repeat(first_rows - starts, lens)
                rows += np.arange(ends[-1], dtype=np.int32) - 1
                rows[starts] = context_rows
                ids = np.concatenate(group.items)[:, None]
                if group.request.options.return_largest:
                    ids = np.hstack([ids, np.tile(_LARGEST, (ids.shape[0], 1))])
                tokens.append((rows, ids))
            if group.tries is not None:
                labels += _trie_rows(group, layout.item_first_rows[branches])
            elif group.request.options.labels is not None:
                ids = _label_ids(group)
                ids = ids.reshape(ids.shape[0], -1)
                labels.append((item_rows(group, first_rows), np.maximum(ids, 0)))
        rows = np.concatenate([rows for rows, _ in (*tokens, *labels)]).astype(np.int32)
        width = max(ids.shape[1] for _, ids in (*tokens, *labels))
        token_ids = [
            np.pad(ids, ((0, 0), (0, width - ids.shape[1]))) for _, ids in (*tokens, *labels)
        ]
        num_token_rows = sum(rows.size for rows, _ in tokens)
        return cls(pack, rows, np.concatenate(token_ids), num_token_rows)

    def scatter(
        self, logprobs: Float[np.ndarray, "M K"], collectors: Sequence["LogprobCollector"]
    ) -> None:
        """Hands each log-probability to its request's collector."""
        logprobs = np.asarray(logprobs, np.float64)
        token, label = 0, self.num_token_rows
        for group in self.pack:
            collector = collectors[group.request_index]
            if _needs_tokens(group.request):
                ends = np.cumsum([item.size for item in group.items])
                of_group = logprobs[token : token + ends[-1]]
                collector.add_tokens(group.indices, np.split(of_group[:, 0], ends[:-1]))
                if group.request.options.return_largest:
                    collector.add_largest(group.indices, np.split(of_group[:, 1:3], ends[:-1]))
                token += ends[-1]
            if group.tries is not None:
                sums = []
                for trie in group.tries:
                    num_rows, width = trie.read.shape
                    sums.append(trie.log_probabilities(logprobs[label : label + num_rows, :width]))
                    label += num_rows
                collector.add_labels(group.indices, np.stack(sums), group.label_range)
            elif group.request.options.labels is not None:
                ids = _label_ids(group)
                of_group = logprobs[label : label + ids.shape[0], : ids[0].size].reshape(ids.shape)
                collector.add_labels(group.indices, _log_sum(np.where(ids >= 0, of_group, -np.inf)))
                label += ids.shape[0]


class LogprobCollector:
    """What has been computed of one request so far.

    Attributes:
        cached_tokens: tokens of its prefixes that the cache had.
    """

    def __init__(self, request: TokenRequest, classes: Classes | None = None) -> None:
        """Begins with nothing.

        Args:
            request: whose results these are.
            classes: of the model, if that is what is read.
        """
        num_items = len(request.items)
        # Items have as many rows of results as they are read at; the first of each, and the end.
        self._reads = request.reads
        self._begins = np.concatenate([[0], np.cumsum(self._reads)])
        num_reads = int(self._begins[-1])
        self.cached_tokens = 0
        self._request = request
        self._classes = classes
        self._states: np.ndarray | None = None
        self._token_logprobs: list[np.ndarray | None] = [None] * num_items
        self._largest: list[np.ndarray | None] = [None] * num_items
        labels = request.options.labels
        if classes is not None:
            width: tuple[int, ...] = (len(classes.names),)
        else:
            width = () if labels is None else (labels.token_ids.shape[1],)
        self._logprobs = np.full((num_reads, *width), np.nan)

    def add_tokens(
        self, indices: Int32[np.ndarray, "n"], logprobs: Sequence[Float64[np.ndarray, "tokens"]]
    ) -> None:
        """Takes the log-probabilities of some items' tokens."""
        request = self._request
        for index, of_item in zip(indices, logprobs, strict=True):
            if request.item_context_lens is not None:
                of_item = of_item[request.item_context_lens[index] :]
            if request.options.labels is None:
                self._logprobs[index] = of_item.sum()
            if request.options.return_token_logprobs:
                self._token_logprobs[index] = of_item.copy()

    def add_largest(
        self, indices: Int32[np.ndarray, "n"], largest: Sequence[Float64[np.ndarray, "tokens 2"]]
    ) -> None:
        """Takes the likeliest tokens in the places of some items' tokens."""
        context = self._request.item_context_lens
        for index, of_item in zip(indices, largest, strict=True):
            self._largest[index] = of_item[0 if context is None else context[index] :].copy()

    def add_labels(
        self,
        indices: Int32[np.ndarray, "n"],
        logprobs: Float64[np.ndarray, "n L"],
        label_range: tuple[int, int] | None = None,
    ) -> None:
        """Takes the log-probabilities of some items' labels: of all of them, or of some."""
        self._logprobs[self._places(indices), slice(*label_range or (None,))] = logprobs

    def add_class_logits(
        self, indices: Int32[np.ndarray, "n"], logits: Float[np.ndarray, "n C"]
    ) -> None:
        """Takes the logits of all classes for some items."""
        self._logprobs[self._places(indices)] = logits

    def add_states(
        self, indices: Int32[np.ndarray, "n"], states: Float32[np.ndarray, "n E"]
    ) -> None:
        """Takes the hidden states of some items."""
        if self._states is None:
            shape = (int(self._begins[-1]), states.shape[1])
            self._states = np.full(shape, np.nan, np.float32)
        self._states[self._places(indices)] = states

    def _places(self, indices: Int32[np.ndarray, "n"]) -> Int64[np.ndarray, "r"]:
        """Returns the rows of the results of some items."""
        if self._request.options.extraction_token_id is None:
            return indices.astype(np.int64)
        return np.concatenate(
            [np.arange(self._begins[index], self._begins[index + 1]) for index in indices]
        )

    def result(self, choice: Choice) -> RequestLogprobs:
        """Returns everything, if nothing is missing.

        Raises:
            MissingLogprobError: naming the request and the first item that has none, or not a number.
        """
        request, options = self._request, self._request.options
        num_items = len(request.items)
        missing = self._missing(self._logprobs)
        token_logprobs = None
        if options.return_token_logprobs:
            token_logprobs = tuple(of for of in self._token_logprobs if of is not None)
            missing |= [of is None or bool(np.isnan(of).any()) for of in self._token_logprobs]
        if self._states is not None:
            missing |= self._missing(self._states)
        if missing.any():
            what = "log-probability" if self._classes is None else "class logits"
            name = f"request {request.request_id!r}: " if request.request_id else ""
            raise MissingLogprobError(
                f"{name}items[{np.flatnonzero(missing)[0]}] has no {what}: the model returned none, or NaN"
            )
        if self._classes is not None:
            num_tokens = np.ones(num_items, np.int32)
            num_labels = np.full(num_items, len(self._classes.names), np.int32)
        elif options.labels is not None:
            num_tokens = np.ones(num_items, np.int32)
            num_labels = options.labels.num_labels(num_items)
        else:
            scored = [request.query] * num_items if options.item_first else request.items
            num_tokens = np.asarray([tokens.size for tokens in scored], np.int32)
            if request.item_context_lens is not None:
                num_tokens -= request.item_context_lens
            num_labels = None
        return RequestLogprobs(
            logprobs=self._logprobs,
            num_tokens=num_tokens,
            num_labels=num_labels,
            token_logprobs=token_logprobs,
            algorithm=choice.algorithm,
            reason=choice.reason,
            cached_tokens=self.cached_tokens,
            largest=tuple(of for of in self._largest if of is not None)
            if options.return_largest and options.return_token_logprobs
            else None,
            classes=self._classes,
            pooled_hidden_states=self._states,
            num_reads=None if options.extraction_token_id is None else self._reads.astype(np.int32),
        )

    def _missing(self, values: Float[np.ndarray, "R *N"]) -> Bool[np.ndarray, "N"]:
        """Returns which items have something that is not a number."""
        rows = np.isnan(values.reshape(len(values), -1)).any(axis=1)
        missing = np.zeros(len(self._request.items), bool)
        missing[np.repeat(np.arange(missing.size), self._reads)[rows]] = True
        return missing


def _needs_tokens(request: TokenRequest) -> bool:
    return request.options.labels is None or request.options.return_token_logprobs


def _trie_rows(
    group: ItemGroup, first_rows: Int32[np.ndarray, "b"]
) -> list[tuple[Int32[np.ndarray, "m"], Int32[np.ndarray, "m K"]]]:
    """Returns for each item its last row and those of its labels' tokens, with what is read there.

    Args:
        group: items with labels of several tokens.
        first_rows: of the branches.
    """
    assert group.tries is not None
    branches = group.branches
    rows_of = [
        first + np.arange(tokens.size, dtype=np.int32)
        for first, tokens in zip(first_rows, branches.rows, strict=True)
    ]
    ends = [*branches.firsts[1:], len(rows_of)]
    reads = []
    for item, trie, begin, end in zip(group.items, group.tries, branches.firsts, ends, strict=True):
        rows = np.concatenate(rows_of[begin:end])[item.size - 1 :]
        reads.append((rows[trie.rows], np.maximum(trie.read, 0)))
    return reads


def _label_ids(group: ItemGroup) -> Int32[np.ndarray, "r L S"]:
    """Returns the tokens of the labels at each row at which items are read; -1 where there is none."""
    assert group.request.options.labels is not None
    return np.repeat(group.request.options.labels.for_items(group.indices), group.reads, axis=0)


def _log_sum(logprobs: Float64[np.ndarray, "n L S"]) -> Float64[np.ndarray, "n L"]:
    """Returns log(sum(exp(x))) over the tokens of each label; -inf if there are none."""
    if logprobs.shape[2] == 1:
        return logprobs[:, :, 0]
    return np.logaddexp.reduce(logprobs, axis=2)
