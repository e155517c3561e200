"""The scoring engine: a model, and the ways to score items with it."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from absl import logging
from jaxtyping import Float

from isoprefill.execution import compilation_cache
from isoprefill.execution.choice import Choice, choices_in_time, choose
from isoprefill.execution.device import Device
from isoprefill.execution.extend import extend_piece, prefix_bytes
from isoprefill.execution.memory import free_bytes, rows_that_fit
from isoprefill.execution.mesh import MeshShape
from isoprefill.execution.packing import Piece, Tokens, one_by_one, packs, pieces
from isoprefill.execution.prefill import prefill_packs
from isoprefill.execution.prefix_cache import PrefixCache, PrefixCacheStats
from isoprefill.execution.readout import CollectedLogprobs, Readout
from isoprefill.execution.warm_up import Workload
from isoprefill.models.pretrained import Pretrained, load_pretrained
from isoprefill.modes import (
    CACHING_ALGORITHMS,
    Algorithm,
    AlgorithmChoice,
    Backend,
    Delimiter,
    Isolation,
    Tokenization,
)
from isoprefill.request.errors import RequestError
from isoprefill.request.labels import LabelSets
from isoprefill.request.preparer import Preparer, check_items_type
from isoprefill.request.result import RequestLogprobs, ScoreResult
from isoprefill.request.scores import check_score_options, score_result
from isoprefill.request.token_request import TextOrTokens, TokenRequest

# Rows of a prefill, and of a chunk over a cached prefix, if memory has room for so many (isoprefill.execution.memory).
PACK_TOKENS = 16_384
CHUNK_TOKENS = 4_096
PREFIX_CACHE_BYTES = 512 << 20  # 11,000 tokens of SmolLM2 in float32
STREAM_ITEMS = 1_024

ProgressCallback = Callable[[int, int], None]


class ScoringEngine:
    """Scores items against a query with one language model.

    Not thread-safe: one call at a time.
    """

    def __init__(
        self,
        model: Pretrained,
        *,
        attention: Backend = "auto",
        pack_tokens: int | None = None,
        chunk_tokens: int | None = None,
        prefix_cache_bytes: int | None = None,
        mesh: MeshShape | None = None,
    ) -> None:
        """Takes a loaded model; see `from_pretrained`.

        Args:
            model: weights, configuration and tokenizer.
            attention: back end of `isoprefill.multi_item_attention`.
            pack_tokens: rows of one prefill, after which "packed" cuts a list. A single item always fits. None is
                PACK_TOKENS, or less if the device's memory has no room for so many rows of this model.
            chunk_tokens: rows of one chunk over a cached prefix ("prefill_extend", "packed_extend"). None is
                CHUNK_TOKENS, or less.
            prefix_cache_bytes: what the keys and values of queries may take between calls; 0 keeps none, None is
                PREFIX_CACHE_BYTES.
            mesh: how many devices to share the packs and the weights out to; None is one.
        """
        if attention not in get_args(Backend):
            raise ValueError(f"attention must be one of {get_args(Backend)}, got {attention!r}")
        for name, value in (("pack_tokens", pack_tokens), ("chunk_tokens", chunk_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._model = model
        self._device = Device.of(model.params, model.config, attention, mesh)
        fitting = rows_that_fit(model.config, free_bytes(self._device.params))
        self._pack_tokens = min(PACK_TOKENS, fitting) if pack_tokens is None else pack_tokens
        self._chunk_tokens = min(CHUNK_TOKENS, fitting) if chunk_tokens is None else chunk_tokens
        self._cache = PrefixCache(
            PREFIX_CACHE_BYTES if prefix_cache_bytes is None else prefix_cache_bytes
        )
        self._preparer = Preparer(
            model.tokenizer, model.config.vocab_size, model.config.max_positions, self._pack_tokens
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: Literal["float32", "bfloat16"] = "float32",
        **options: Any,
    ) -> "ScoringEngine":
        """Loads a model: "smollm2-135m", a .gguf file, or a Hugging Face directory with safetensors.

        Args:
            source: which model.
            dtype: of the weights.
            **options: see `ScoringEngine`.

        Raises:
            ValueError: if there is no such model, or it is of an unsupported kind; says what is missing.
        """
        compilation_cache.enable()
        return cls(load_pretrained(source, dtype), **options)

    @property
    def model(self) -> Pretrained:
        return self._model

    @property
    def preparer(self) -> Preparer:
        """Makes requests for this model from text or token ids."""
        return self._preparer

    @property
    def prefix_cache_stats(self) -> PrefixCacheStats:
        """Hits, misses and size of the prefix cache."""
        return self._cache.stats

    def clear_prefix_cache(self) -> None:
        """Forgets the keys and values of all queries."""
        self._cache.clear()

    def warm_up(
        self, workloads: Sequence[Workload], on_progress: ProgressCallback | None = None
    ) -> None:
        """Compiles what these workloads need, by scoring requests of their sizes: with "auto", new and again.

        With the persistent compilation cache (`isoprefill.execution.compilation_cache`) a second start only loads it.

        Args:
            workloads: sizes of the requests to come; sizes that are padded alike need be given only once.
            on_progress: called with (workloads done, workloads in all) at the start and after each.

        Raises:
            RequestError: if the model cannot score such a request.
        """
        kept, self._cache = self._cache, PrefixCache(self._cache.budget_bytes)
        try:
            for done, workload in enumerate(workloads):
                if on_progress is not None:
                    on_progress(done, len(workloads))
                begin = time.monotonic()
                request = workload.request(workload.num_items)
                self._preparer.check(request)
                algorithms: list[Algorithm]
                if workload.algorithm == "auto":
                    algorithms = choices_in_time(
                        request,
                        keeps=self._keeps(_prefix(request)),
                        pack_tokens=self._pack_tokens,
                    )
                else:
                    algorithms = [workload.algorithm]
                for algorithm in algorithms:
                    most = self._items_worth_computing(workload, algorithm)
                    self._score_batch([workload.request(most)], algorithm, None)
                logging.info("warm-up %s took %.1f s", workload, time.monotonic() - begin)
            if on_progress is not None:
                on_progress(len(workloads), len(workloads))
        finally:
            self._cache = kept

    def score(
        self,
        query: TextOrTokens,
        items: Iterable[TextOrTokens],
        label_token_ids: Sequence[int] | Sequence[Sequence[int]] | LabelSets | None = None,
        apply_softmax: bool = False,
        item_first: bool = False,
        isolation: Isolation = "isolated",
        algorithm: AlgorithmChoice = "auto",
        on_progress: ProgressCallback | None = None,
        *,
        temperature: float | None = None,
        delimiter: Delimiter = "none",
        delimiter_id: int | None = None,
        tokenization: Tokenization = "separate",
        return_token_logprobs: bool = False,
    ) -> ScoreResult:
        """Scores every item against the query.

        Text is tokenised piece by piece: the query (with the model's BOS token, if it has one), then each item
        on its own. An item that continues a sentence should therefore begin with its space.

        Args:
            query: text or token ids.
            items: text or token ids each.
            label_token_ids: score P(label | query, item) for these labels; without, log P(item | query). One list
                for all items, one list for each, or `LabelSets`, in which a label may be several token ids.
            apply_softmax: labels only: normalise over the labels instead of the full vocabulary.
            item_first: score item + query, so that a likelihood is log P(query | item).
            isolation: "isolated"; "causal" lets items see the items before them, which changes their scores. All of
                them must then fit into one pack.
            algorithm: "packed" computes the query and as many items as fit in one prefill. "packed_extend" computes
                the query once, keeps its keys and values for later calls, and then chunks of packed items over
                them; "prefill_extend" does the same with batches of items padded to one length. "serial" scores
                query + item one by one. "auto" chooses; the result says what and why.
            on_progress: called with (items done, items in all) at the start and after each pack.
            temperature: with apply_softmax, divides the log-probabilities before the softmax.
            delimiter: "hidden" and "prefix_first" put a delimiter token between items; see docs/design.md.
            delimiter_id: that token.
            tokenization: "joint" tokenises query + item as one text; see docs/scoring.md.
            return_token_logprobs: also return the log-probability of each token of the items.

        Raises:
            RequestError: (a ValueError) naming the argument, its value and the limit.
        """
        check_score_options(
            has_labels=label_token_ids is not None,
            apply_softmax=apply_softmax,
            temperature=temperature,
        )
        request = self._preparer.request(
            query,
            items,
            label_token_ids,
            item_first=item_first,
            isolation=isolation,
            delimiter=delimiter,
            delimiter_id=delimiter_id,
            tokenization=tokenization,
            return_token_logprobs=return_token_logprobs,
        )
        (logprobs,) = self._score_batch([request], algorithm, on_progress)
        return score_result(
            request,
            logprobs,
            model=self._model.name,
            apply_softmax=apply_softmax,
            temperature=temperature,
        )

    def score_stream(
        self,
        query: TextOrTokens,
        items: Iterable[TextOrTokens],
        label_token_ids: Sequence[int] | Sequence[Sequence[int]] | LabelSets | None = None,
        *,
        items_at_once: int = STREAM_ITEMS,
        algorithm: AlgorithmChoice = "packed_extend",
        **options: Any,
    ) -> Iterator[ScoreResult]:
        """Scores items as they come, from any iterable, holding only `items_at_once` of them.

        The query is computed once and stays in the prefix cache. The results are those of `score` on that many
        items after another.

        Args:
            query: text or token ids.
            items: text or token ids each; read no further than a result needs.
            label_token_ids: see `score`; lists for each item must be as many as the items turn out to be.
            items_at_once: items of one result.
            algorithm: see `score`.
            **options: those of `score`.

        Raises:
            RequestError: when the items at fault come, or none at all.
        """
        check_items_type(items)
        if items_at_once < 1:
            raise ValueError(f"items_at_once must be at least 1, got {items_at_once}")
        labels = None if label_token_ids is None else LabelSets.parse(label_token_ids)
        source, scored = iter(items), 0
        while batch := list(itertools.islice(source, items_at_once)):
            own = None if labels is None else labels.of_stream(scored, len(batch))
            yield self.score(query, batch, own, algorithm=algorithm, **options)
            scored += len(batch)
        if not scored:
            self.score(query, [], labels, algorithm=algorithm, **options)  # says what is wrong
        if labels is not None:
            labels.check_count(scored)

    def score_batch(
        self,
        requests: Sequence[TokenRequest],
        *,
        algorithm: AlgorithmChoice = "auto",
        on_progress: ProgressCallback | None = None,
    ) -> list[RequestLogprobs]:
        """Log-probabilities of several requests; "packed" puts as many of them as fit into one prefill.

        Args:
            requests: of any mixture of labels, likelihoods, delimiters and isolation.
            algorithm: see `score`.
            on_progress: called with (items done, items in all).

        Raises:
            RequestError: naming the request, the argument, its value and the limit.
            MissingLogprobError: naming the request and the item.
        """
        for request in requests:
            self._preparer.check(request)
        return self._score_batch(requests, algorithm, on_progress)

    @property
    def pack_tokens(self) -> int:
        """Rows of one prefill."""
        return self._pack_tokens

    def label_id(self, text: str) -> int:
        """The token id of a label given as text.

        Raises:
            RequestError: if the text is not a single token.
        """
        return self._preparer.label_id(text, f"label {text!r}")

    def _score_batch(
        self,
        requests: Sequence[TokenRequest],
        algorithm: AlgorithmChoice,
        on_progress: ProgressCallback | None,
    ) -> list[RequestLogprobs]:
        if algorithm not in get_args(AlgorithmChoice):
            raise RequestError(
                f"algorithm must be one of {get_args(AlgorithmChoice)}, got {algorithm!r}",
                code="invalid_algorithm",
                param="algorithm",
            )
        choices = [self._choose(request, algorithm) for request in requests]
        for request, choice in zip(requests, choices, strict=True):
            self._check_causal(request, choice.algorithm)
        collected = [CollectedLogprobs(request) for request in requests]
        cached_tokens = [0] * len(requests)
        done, total = 0, sum(len(request.items) for request in requests)
        if on_progress is not None:
            on_progress(done, total)
        for readout, logprobs in self._answers(pieces(requests), choices, cached_tokens):
            readout.scatter(logprobs, collected)
            done += sum(len(piece.items) for piece in readout.pack)
            if on_progress is not None:
                on_progress(done, total)
        return [
            one.result(choice.algorithm, choice.reason, reused)
            for one, choice, reused in zip(collected, choices, cached_tokens, strict=True)
        ]

    def _items_worth_computing(self, workload: Workload, algorithm: Algorithm) -> int:
        if algorithm == "serial":
            return self._device.lanes
        rows = (
            self._chunk_tokens
            if algorithm in CACHING_ALGORITHMS
            else self._pack_tokens - workload.query_tokens
        )
        return workload.items_worth_computing(rows, self._device.lanes)

    def _choose(self, request: TokenRequest, algorithm: AlgorithmChoice) -> Choice:
        if algorithm != "auto":
            return Choice(algorithm, "asked for")
        prefix = _prefix(request)
        choice = choose(
            request,
            cached=self._cache.holds(prefix),
            seen_before=self._cache.seen_before(prefix),
            keeps=self._keeps(prefix),
            pack_tokens=self._pack_tokens,
        )
        logging.info(
            "%d items over %d query tokens: %s, because %s",
            len(request.items),
            request.query.size,
            choice.algorithm,
            choice.reason,
        )
        return choice

    def _keeps(self, prefix: Tokens) -> bool:
        """Whether the cache would keep a query, rather than find it too large."""
        return self._cache.has_room_for(prefix_bytes(self._device, prefix.size))

    def _answers(
        self, all_pieces: Sequence[Piece], choices: Sequence[Choice], cached_tokens: list[int]
    ) -> Iterator[tuple[Readout, Float[np.ndarray, "M K"]]]:
        """Computes pack by pack; adds to `cached_tokens` for each request what the cache had."""

        def chosen(algorithm: Algorithm) -> list[Piece]:
            return [
                piece for piece in all_pieces if choices[piece.request_index].algorithm == algorithm
            ]

        yield from prefill_packs(self._device, one_by_one(chosen("serial")))
        yield from prefill_packs(self._device, packs(chosen("packed"), self._pack_tokens))
        for algorithm in CACHING_ALGORITHMS:
            for piece in chosen(algorithm):
                reused, answers = extend_piece(
                    self._device,
                    self._cache,
                    piece,
                    self._chunk_tokens,
                    padded=algorithm == "prefill_extend",
                )
                cached_tokens[piece.request_index] += reused
                yield from answers

    def _check_causal(self, request: TokenRequest, algorithm: Algorithm) -> None:
        if request.isolation != "causal":
            return
        if algorithm != "packed":
            raise RequestError(
                f"isolation 'causal' has no meaning with algorithm {algorithm!r}: items are not all in one prefill",
                code="invalid_isolation",
                param="isolation",
            )


def _prefix(request: TokenRequest) -> Tokens:
    """What the cache may keep of a request, by which it is found."""
    return pieces([request])[0].cacheable_prefix
