"""The scoring engine: a model, and the ways to score items with it."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from isoprefill.execution import compilation_cache
from isoprefill.execution.executor import Executor, ProgressCallback
from isoprefill.execution.failures import NotEnoughMemoryError, is_memory, shown_bytes
from isoprefill.execution.memory import check_weights_fit, free_bytes, row_bytes, rows_that_fit
from isoprefill.execution.mesh import MeshShape
from isoprefill.execution.model_runner import ModelRunner
from isoprefill.execution.prefix_cache import PrefixCache, PrefixCacheStats
from isoprefill.execution.warm_up import Workload, warm_up
from isoprefill.host.threads import use_threads
from isoprefill.models.pretrained import Pretrained, load_pretrained
from isoprefill.models.sources.source import find_model
from isoprefill.models.weights.assembly import WeightBytes
from isoprefill.modes import (
    AlgorithmChoice,
    Backend,
    Delimiter,
    Isolation,
    Tokenization,
    check_choice,
)
from isoprefill.request.errors import MissingLogprobError, RequestError
from isoprefill.request.labels import LabelSets
from isoprefill.request.model_limits import ModelLimits
from isoprefill.request.options import ScoreOptions
from isoprefill.request.preparer import Preparer, check_items_type
from isoprefill.request.result import RequestLogprobs, ScoreResult
from isoprefill.request.scores import score_result
from isoprefill.request.token_request import TextOrTokens, TokenRequest
from isoprefill.request.vectors import EmbedOverrides

# Rows of a prefill, and of a chunk over a cached prefix, if memory has room for so many (isoprefill.execution.memory).
PACK_TOKENS = 16_384
CHUNK_TOKENS = 4_096
PREFIX_CACHE_BYTES = 512 << 20  # 11,000 tokens of SmolLM2 in float32
STREAM_ITEMS = 1_024

LabelIds = Sequence[int] | Sequence[Sequence[int]]
LabelTexts = Sequence[str] | Sequence[Sequence[str]]


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
        check_choice("attention", attention, Backend)
        for name, value in (("pack_tokens", pack_tokens), ("chunk_tokens", chunk_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._model = model
        runner = ModelRunner.load(model.params, model.config, attention, mesh)
        fitting = rows_that_fit(model.config, free_bytes(runner.params))
        self._executor = Executor(
            runner,
            PrefixCache(PREFIX_CACHE_BYTES if prefix_cache_bytes is None else prefix_cache_bytes),
            min(PACK_TOKENS, fitting) if pack_tokens is None else pack_tokens,
            min(CHUNK_TOKENS, fitting) if chunk_tokens is None else chunk_tokens,
        )
        limits = ModelLimits(
            model.config.vocab_size,
            model.config.max_positions,
            self.pack_tokens,
            model.config.hidden_size,
            model.config.classes,
        )
        self._preparer = Preparer(model.tokenizer, limits)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: Literal["float32", "bfloat16"] = "float32",
        adapter: str | Path | None = None,
        *,
        threads: int | None = None,
        **options: Any,
    ) -> "ScoringEngine":
        """Loads a model: "smollm2-135m", a .gguf file, a Hugging Face directory with safetensors, or ORG/NAME.

        Args:
            source: which model; ORG/NAME, with @REVISION or not, is one of the Hub's that lies in its local cache.
            dtype: of the weights.
            adapter: the directory of a LoRA adapter of the `peft` package, or its ORG/NAME, to add to the weights.
            threads: how many compute on a CPU, if JAX has not used its CPU device yet (`isoprefill.host.threads`).
                None: as many as this process may use.
            **options: see `ScoringEngine`.

        Raises:
            ValueError: if there is no such model, or it is of an unsupported kind; says what is missing. Or `threads`
                is not in its limits, or another number is in use in this process.
            NotEnoughMemoryError: (a MemoryError) the weights do not fit; says how much they need.
        """
        use_threads(threads)
        compilation_cache.enable()
        found = find_model(source)
        needs = ""

        def check_memory(weights: WeightBytes) -> None:
            nonlocal needs
            needs = (
                f", which needs about {shown_bytes(weights.num_bytes)} for its weights in {dtype}, and more to load "
                "them"
            )
            check_weights_fit(found.name, dtype, weights)

        try:
            return cls(load_pretrained(found, dtype, adapter, check_memory), **options)
        except Exception as error:
            if not is_memory(error) or isinstance(error, NotEnoughMemoryError):
                raise
            reason = f": {error}" if str(error) else ""
            raise NotEnoughMemoryError(
                f"not enough memory for model {found.name}{needs}{reason}"
            ) from error

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
        return self._executor.cache.stats

    def clear_prefix_cache(self) -> None:
        """Forgets the keys and values of all queries."""
        self._executor.cache.clear()

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
        warm_up(self._executor, self._preparer, workloads, on_progress)

    def score(
        self,
        query: TextOrTokens,
        items: Iterable[TextOrTokens],
        label_token_ids: LabelIds | LabelSets | None = None,
        apply_softmax: bool = False,
        item_first: bool = False,
        isolation: Isolation = "isolated",
        algorithm: AlgorithmChoice = "auto",
        on_progress: ProgressCallback | None = None,
        *,
        labels: LabelTexts | None = None,
        temperature: float | None = None,
        delimiter: Delimiter = "none",
        delimiter_id: int | None = None,
        tokenization: Tokenization = "separate",
        return_token_logprobs: bool = False,
        extraction_token_id: int | None = None,
        return_pooled_hidden_states: bool = False,
        overrides: EmbedOverrides | None = None,
        options: ScoreOptions | None = None,
    ) -> ScoreResult:
        """Scores every item against the query.

        Text is tokenised piece by piece: the query (with the model's BOS token, if it has one), then each item
        on its own. An item that continues a sentence should therefore begin with its space.

        Args:
            query: text, token ids, or embedding vectors: a floating-point array [vectors, hidden size], which the model
                takes instead of embeddings of tokens. They are read as float32.
            items: text, token ids, or embedding vectors each. Items with vectors need labels or a classification model.
            label_token_ids: score P(label | query, item) for these labels; without, log P(item | query). One list
                for all items, one list for each, or `LabelSets`, in which a label may be several token ids. A
                classification model takes none, and gives the logits of its classes.
            labels: the same as text, instead: one list for all items or one list for each. A label is any number of
                tokens, and P(label | query, item) that of all of them, one after another. It continues the item, so
                it should mostly begin with a space.
            apply_softmax, item_first, temperature, delimiter, delimiter_id, tokenization, return_token_logprobs,
                extraction_token_id, return_pooled_hidden_states: see `ScoreOptions`.
            isolation: "isolated"; "causal" lets items see the items before them, which changes their scores. All of
                them must then fit into one pack.
            algorithm: "packed" computes the query and as many items as fit in one prefill. "packed_extend" computes
                the query once, keeps its keys and values for later calls, and then chunks of packed items over
                them; "prefill_extend" does the same with batches of items padded to one length. "serial" scores
                query + item one by one. "auto" chooses; the result says what and why.
            on_progress: called with (items done, items in all) at the start and after each pack.
            overrides: vectors that take the places of a token in query and items.
            options: the labels and all other options in one object, instead of the keywords.

        Raises:
            RequestError: (a ValueError) naming the argument, its value and the limit.
        """
        made = _options(
            self._labels(label_token_ids, labels),
            options,
            apply_softmax=apply_softmax,
            temperature=temperature,
            item_first=item_first,
            isolation=isolation,
            delimiter=delimiter,
            delimiter_id=delimiter_id,
            tokenization=tokenization,
            return_token_logprobs=return_token_logprobs,
            extraction_token_id=extraction_token_id,
            return_pooled_hidden_states=return_pooled_hidden_states,
        )
        return self._score(query, items, made, algorithm, on_progress, overrides)

    def score_stream(
        self,
        query: TextOrTokens,
        items: Iterable[TextOrTokens],
        label_token_ids: LabelIds | LabelSets | None = None,
        *,
        labels: LabelTexts | None = None,
        items_at_once: int = STREAM_ITEMS,
        algorithm: AlgorithmChoice = "packed_extend",
        on_progress: ProgressCallback | None = None,
        options: ScoreOptions | None = None,
        **keywords: Any,
    ) -> Iterator[ScoreResult]:
        """Scores items as they come, from any iterable, holding only `items_at_once` of them.

        The query is computed once and stays in the prefix cache. The results are those of `score` on that many
        items after another.

        Args:
            query: text or token ids.
            items: text or token ids each; read no further than a result needs.
            label_token_ids, labels: see `score`; lists for each item must be as many as the items turn out to be.
            items_at_once: items of one result.
            algorithm, on_progress, options: see `score`.
            **keywords: the fields of `ScoreOptions`.

        Raises:
            RequestError: when the items at fault come, or none at all.
        """
        check_items_type(items)
        if items_at_once < 1:
            raise ValueError(f"items_at_once must be at least 1, got {items_at_once}")
        made = _options(self._labels(label_token_ids, labels), options, **keywords)
        all_labels = made.labels
        source, scored = iter(items), 0
        while batch := list(itertools.islice(source, items_at_once)):
            if all_labels is not None:
                made = dataclasses.replace(made, labels=all_labels.of_stream(scored, len(batch)))
            yield self._score(query, batch, made, algorithm, on_progress)
            scored += len(batch)
        if not scored:
            raise RequestError("empty_items", "items")
        if all_labels is not None:
            all_labels.check_count(scored)

    def score_batch(
        self,
        requests: Sequence[TokenRequest],
        *,
        algorithm: AlgorithmChoice = "auto",
        on_progress: ProgressCallback | None = None,
    ) -> list[RequestLogprobs]:
        """Returns the log-probabilities of several requests; "packed" puts as many of them as fit into one prefill.

        Args:
            requests: of any mixture of labels, likelihoods, delimiters and isolation.
            algorithm: see `score`.
            on_progress: called with (items done, items in all).

        Raises:
            RequestError: naming the request, the argument, its value and the limit.
            MissingLogprobError: naming the request and the item, and the tensor if one is NaN or infinite.
            NotEnoughMemoryError: (a MemoryError) saying how much a pack needs.
        """
        for request in requests:
            self._preparer.limits.check(request)
        return self._run(requests, algorithm, on_progress)

    @property
    def pack_tokens(self) -> int:
        """Rows of one prefill."""
        return self._executor.pack_tokens

    def label_id(self, text: str) -> int:
        """Returns the token id of a label given as text.

        Raises:
            RequestError: if the text is not a single token.
        """
        return self._preparer.label_id(text, f"label {text!r}")

    def _labels(
        self, token_ids: LabelIds | LabelSets | None, texts: LabelTexts | None
    ) -> LabelSets | None:
        """Returns the labels that were given as ids or as text."""
        if texts is not None and token_ids is not None:
            raise RequestError("conflicting_labels", "labels")
        if texts is not None:
            return self._preparer.labels(texts)
        return None if token_ids is None else LabelSets.parse(token_ids)

    def _score(
        self,
        query: TextOrTokens,
        items: Iterable[TextOrTokens],
        options: ScoreOptions,
        algorithm: AlgorithmChoice,
        on_progress: ProgressCallback | None,
        overrides: EmbedOverrides | None = None,
    ) -> ScoreResult:
        request = self._preparer.request(query, items, options, overrides=overrides)
        (logprobs,) = self._run([request], algorithm, on_progress)
        return score_result(request, logprobs, model=self._model.name)

    def _run(
        self,
        requests: Sequence[TokenRequest],
        algorithm: AlgorithmChoice,
        on_progress: ProgressCallback | None,
    ) -> list[RequestLogprobs]:
        try:
            return self._executor.run(requests, algorithm, on_progress)
        except MissingLogprobError as error:
            raise MissingLogprobError(
                f"{error}; weights are finite when they are loaded, so a number overflowed"
            ) from error
        except Exception as error:
            if not is_memory(error):
                raise
            needed = shown_bytes(self.pack_tokens * row_bytes(self._model.config))
            raise NotEnoughMemoryError(
                f"not enough memory to score: a prefill of {self.pack_tokens} tokens needs about {needed} beside the "
                f"weights: {error}"
            ) from error


def _options(labels: LabelSets | None, options: ScoreOptions | None, **fields: Any) -> ScoreOptions:
    """Returns the options that a caller gave either whole or one by one."""
    made = ScoreOptions(labels=labels, **fields)
    if options is None:
        return made
    if made != ScoreOptions():
        raise ValueError("options must not be given together with its fields as keywords")
    return options
