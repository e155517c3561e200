"""The scoring engine: a model, and the ways to score items with it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

from isoprefill import compilation_cache
from isoprefill.attention.op import Backend
from isoprefill.labels import LabelSets
from isoprefill.models.pretrained import Pretrained, load_pretrained
from isoprefill.modes import Algorithm, Delimiter, Isolation, Tokenization
from isoprefill.packing import one_by_one, packs, pieces
from isoprefill.prepare import Preparer
from isoprefill.readout import CollectedLogprobs
from isoprefill.request import TextOrTokens, TokenRequest
from isoprefill.request_error import RequestError
from isoprefill.result import RequestLogprobs, ScoreResult
from isoprefill.scores import check_score_options, score_result
from isoprefill.step import prefill_pack

# Rows of one pack. Activations of SmolLM2 take about 40 KB a row; the query is computed once per pack.
PACK_TOKENS = 16_384

ProgressCallback = Callable[[int, int], None]


class ScoringEngine:
    """Scores items against a query with one language model.

    Not thread-safe: one call at a time.
    """

    def __init__(
        self, model: Pretrained, *, attention: Backend = "auto", pack_tokens: int = PACK_TOKENS
    ) -> None:
        """Takes a loaded model; see `from_pretrained`.

        Args:
        model: weights, configuration and tokenizer.
        attention: back end of `isoprefill.multi_item_attention`.
        pack_tokens: rows after which a list of items is cut into several packs. A single item always fits.
        """
        if attention not in get_args(Backend):
            raise ValueError(f"attention must be one of {get_args(Backend)}, got {attention!r}")
        if pack_tokens < 1:
            raise ValueError(f"pack_tokens must be at least 1, got {pack_tokens}")
        self._model = model
        self._attention = attention
        self._pack_tokens = pack_tokens
        self._preparer = Preparer(
            model.tokenizer, model.config.vocab_size, model.config.max_positions
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: Literal["float32", "bfloat16"] = "float32",
        *,
        attention: Backend = "auto",
        pack_tokens: int = PACK_TOKENS,
    ) -> "ScoringEngine":
        """Loads a model: "smollm2-135m", a .gguf file, or a Hugging Face directory with safetensors.

        Raises:
            ValueError: if there is no such model, or it is of an unsupported kind; says what is missing.
        """
        compilation_cache.enable()
        return cls(load_pretrained(source, dtype), attention=attention, pack_tokens=pack_tokens)

    @property
    def model(self) -> Pretrained:
        return self._model

    @property
    def preparer(self) -> Preparer:
        """Makes requests for this model from text or token ids."""
        return self._preparer

    def score(
        self,
        query: TextOrTokens,
        items: Iterable[TextOrTokens],
        label_token_ids: Sequence[int] | Sequence[Sequence[int]] | LabelSets | None = None,
        apply_softmax: bool = False,
        item_first: bool = False,
        isolation: Isolation = "isolated",
        algorithm: Literal["auto"] | Algorithm = "auto",
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
            algorithm: "packed" computes the query once per pack of items; "serial" scores query + item one by
                one; "auto" is "packed".
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

    def score_batch(
        self,
        requests: Sequence[TokenRequest],
        *,
        algorithm: Literal["auto"] | Algorithm = "auto",
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

    def label_id(self, text: str) -> int:
        """The token id of a label given as text.

        Raises:
            RequestError: if the text is not a single token.
        """
        return self._preparer.label_id(text)

    def _score_batch(
        self,
        requests: Sequence[TokenRequest],
        algorithm: Literal["auto"] | Algorithm,
        on_progress: ProgressCallback | None,
    ) -> list[RequestLogprobs]:
        if algorithm not in ("auto", *get_args(Algorithm)):
            raise RequestError(
                f"algorithm must be one of {('auto', *get_args(Algorithm))}, got {algorithm!r}",
                code="invalid_algorithm",
                param="algorithm",
            )
        chosen: Algorithm = "packed" if algorithm == "auto" else algorithm
        for request in requests:
            self._check_causal(request, chosen)
        all_pieces = pieces(requests)
        cut = one_by_one(all_pieces) if chosen == "serial" else packs(all_pieces, self._pack_tokens)
        collected = [CollectedLogprobs(request) for request in requests]
        done, total = 0, sum(len(request.items) for request in requests)
        if on_progress is not None:
            on_progress(done, total)
        for pack in cut:
            readout, logprobs = prefill_pack(
                self._model.params, self._model.config, pack, self._attention
            )
            readout.scatter(logprobs, collected)
            done += sum(len(piece.items) for piece in pack)
            if on_progress is not None:
                on_progress(done, total)
        reason = "asked for" if algorithm != "auto" else "one prefill computes the query once"
        return [one.result(chosen, reason, cached_tokens=0) for one in collected]

    def _check_causal(self, request: TokenRequest, algorithm: Algorithm) -> None:
        if request.isolation != "causal":
            return
        if algorithm == "serial":
            raise RequestError(
                "isolation 'causal' has no meaning with algorithm 'serial': items are alone",
                code="invalid_isolation",
                param="isolation",
            )
        limit = min(self._model.config.max_positions, self._pack_tokens)
        if request.num_tokens > limit:
            raise RequestError(
                f"with isolation 'causal' the query and all items must have at most {limit} tokens together, "
                f"got {request.num_tokens}",
                code="context_length_exceeded",
                param="items",
            )
