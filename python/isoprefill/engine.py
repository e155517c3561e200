"""The scoring engine: a model, and the ways to score items with it."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from isoprefill import compilation_cache
from isoprefill.attention import multi_item_attention
from isoprefill.attention.op import Backend
from isoprefill.head import label_logprobs, token_logprobs
from isoprefill.integers import flat_integers
from isoprefill.layout import PackedLayout, bucket_size
from isoprefill.models.config import ModelConfig
from isoprefill.models.decoder import Params, decode
from isoprefill.models.pretrained import Pretrained, load_pretrained
from isoprefill.modes import Algorithm, Isolation
from isoprefill.request import ScoreResult, TextOrTokens, TokenRequest, Usage
from isoprefill.softmax import softmax

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

    def score(
        self,
        query: TextOrTokens,
        items: Sequence[TextOrTokens],
        label_token_ids: Sequence[int] | None = None,
        apply_softmax: bool = False,
        item_first: bool = False,
        isolation: Isolation = "isolated",
        algorithm: Literal["auto"] | Algorithm = "auto",
        on_progress: ProgressCallback | None = None,
    ) -> ScoreResult:
        """Scores every item against the query.

        Text is tokenised piece by piece: the query (with the model's BOS token, if it has one), then each item
        on its own. An item that continues a sentence should therefore begin with its space.

        Args:
            query: text or token ids.
            items: text or token ids each.
            label_token_ids: score P(label | query, item) for these labels; without, log P(item | query).
            apply_softmax: labels only: normalise over the labels instead of the full vocabulary.
            item_first: score item + query, so that a likelihood is log P(query | item).
            isolation: "isolated"; "causal" lets items see the items before them, which changes their scores. All of
                them must then fit into one pack.
            algorithm: "packed" computes the query once per pack of items; "serial" scores query + item one by
                one; "auto" is "packed".
            on_progress: called with (items done, items in all) at the start and after each pack.

        Raises:
            ValueError: naming the argument, its value and the limit.
        """
        if isolation not in get_args(Isolation):
            raise ValueError(f"isolation must be one of {get_args(Isolation)}, got {isolation!r}")
        if algorithm not in ("auto", *get_args(Algorithm)):
            raise ValueError(
                f"algorithm must be one of {('auto', *get_args(Algorithm))}, got {algorithm!r}"
            )
        if apply_softmax and label_token_ids is None:
            raise ValueError("apply_softmax needs label_token_ids")
        if isolation == "causal" and algorithm == "serial":
            raise ValueError(
                "isolation 'causal' has no meaning with algorithm 'serial': items are alone"
            )
        if isolation == "causal" and item_first:
            raise ValueError("isolation 'causal' has no meaning with item_first: items are alone")
        if isinstance(items, str | bytes | Mapping | Set) or not isinstance(items, Iterable):
            raise ValueError(
                f"items must be a list of texts or of token lists, got {type(items).__name__}"
            )
        chosen: Algorithm = "packed" if algorithm == "auto" else algorithm
        labels = None if label_token_ids is None else self._check_labels(label_token_ids)
        request = TokenRequest(
            self._tokens("query", query, begins_text=not item_first),
            tuple(
                self._tokens(f"items[{index}]", item, begins_text=item_first)
                for index, item in enumerate(items)
            ),
        )
        self._check_positions(request, isolation)
        requests = request.items_first() if item_first else (request,)
        logprobs, done = [], 0
        if on_progress is not None:
            on_progress(0, len(request.items))
        for pack in self._packs(requests, chosen):
            logprobs.append(self._score_pack(pack, labels, isolation))
            done += len(logprobs[-1])
            if on_progress is not None:
                on_progress(done, len(request.items))
        all_logprobs = np.concatenate(logprobs).astype(np.float64)
        scores = all_logprobs
        if labels is not None:
            scores = softmax(all_logprobs) if apply_softmax else np.exp(all_logprobs)
        num_tokens = [
            1 if labels is not None else len(item) for one in requests for item in one.items
        ]
        return ScoreResult(
            scores=scores,
            logprobs=all_logprobs,
            num_tokens=np.asarray(num_tokens, np.int32),
            model=self._model.name,
            algorithm=chosen,
            isolation=isolation,
            usage=Usage(prompt_tokens=request.num_tokens),
        )

    def label_id(self, text: str) -> int:
        """The token id of a label given as text.

        Raises:
            ValueError: if the text is not a single token.
        """
        ids = self._model.tokenizer.encode(text)
        if len(ids) != 1:
            pieces = [self._model.tokenizer.decode([token]) for token in ids]
            raise ValueError(f"label {text!r} must be a single token, but is {len(ids)}: {pieces}")
        return ids[0]

    def _tokens(
        self, name: str, value: TextOrTokens, *, begins_text: bool
    ) -> Int32[np.ndarray, "tokens"]:
        if not isinstance(value, str):
            tokens = flat_integers(name, value, "text or a flat list of token ids")
            self._check_vocabulary(name, tokens)
            return tokens.astype(np.int32)
        tokenizer = self._model.tokenizer
        try:
            text = tokenizer.encode(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if text and begins_text and tokenizer.adds_bos and tokenizer.bos_id is not None:
            text = [tokenizer.bos_id, *text]
        return np.asarray(text, np.int32)

    def _check_labels(self, label_token_ids: Sequence[int]) -> Int32[np.ndarray, "L"]:
        expected = "a flat list of at least 1 token id"
        labels = flat_integers("label_token_ids", label_token_ids, expected)
        if not labels.size:
            raise ValueError(f"label_token_ids must be {expected}, got []")
        self._check_vocabulary("label_token_ids", labels)
        return labels.astype(np.int32)

    def _check_vocabulary(self, name: str, tokens: np.ndarray) -> None:
        vocab_size = self._model.config.vocab_size
        outside = np.flatnonzero((tokens < 0) | (tokens >= vocab_size))
        if outside.size:
            place = outside[0]
            raise ValueError(f"{name}[{place}] must be in [0, {vocab_size}), got {tokens[place]}")

    def _check_positions(self, request: TokenRequest, isolation: Isolation) -> None:
        limit = self._model.config.max_positions
        if isolation == "causal" and request.num_tokens > min(limit, self._pack_tokens):
            raise ValueError(
                f"with isolation 'causal' the query and all items must have at most "
                f"{min(limit, self._pack_tokens)} tokens together, got {request.num_tokens}"
            )
        index, longest = max(enumerate(request.items), key=lambda item: item[1].size)
        if request.query.size + longest.size > limit:
            raise ValueError(
                f"query and items[{index}] must have at most {limit} tokens together (the model's positions), "
                f"got {request.query.size} + {longest.size}"
            )

    def _packs(
        self, requests: Sequence[TokenRequest], algorithm: Algorithm
    ) -> Iterator[tuple[TokenRequest, ...]]:
        """Cuts requests into packs of at most `pack_tokens` rows, or of one item with "serial"."""
        budget = 0 if algorithm == "serial" else self._pack_tokens
        pack: list[TokenRequest] = []
        used = 0
        for request in requests:
            items: list[Int32[np.ndarray, tokens]] = []
            for item in request.items:
                needed = item.size + (0 if items else request.query.size)
                if (pack or items) and used + needed > budget:
                    if items:
                        pack.append(TokenRequest(request.query, tuple(items)))
                    yield tuple(pack)
                    pack, items, used = [], [], 0
                    needed = item.size + request.query.size
                items.append(item)
                used += needed
            pack.append(TokenRequest(request.query, tuple(items)))
        yield tuple(pack)

    def _score_pack(
        self,
        pack: tuple[TokenRequest, ...],
        labels: Int32[np.ndarray, "L"] | None,
        isolation: Isolation,
    ) -> Float[np.ndarray, "N *L"]:
        """Log-probabilities of a pack's items, in order: of each label, or of the item as a whole."""
        layout = PackedLayout.concat(
            [
                PackedLayout.from_lengths(
                    one.query.size, [item.size for item in one.items], isolation=isolation
                )
                for one in pack
            ],
            pad_to=bucket_size(sum(one.num_tokens for one in pack)),
        )
        tokens = _padded(np.concatenate([part for one in pack for part in (one.query, *one.items)]))
        if self._attention != "dense":
            layout = layout.with_schedule("xla")
        config, params = self._model.config, self._model.params
        hidden = _hidden_states(params, config, tokens, layout, self._attention)

        if labels is not None:
            rows = layout.readout_rows
            result = label_logprobs(
                params, config, hidden, _padded(rows), np.int32(rows.size), labels
            )
            return np.asarray(result)[: rows.size]

        # An item's first token is predicted by the row before the item's rows, the others by the item itself.
        first, lens = layout.item_first_rows, layout.item_lens
        item_ends = np.cumsum(lens)
        item_starts = item_ends - lens
        own_rows = np.repeat(first - item_starts, lens) + np.arange(item_ends[-1], dtype=np.int32)
        rows = own_rows - 1
        rows[item_starts] = layout.item_context_rows
        result = token_logprobs(
            params, config, hidden, _padded(rows), np.int32(rows.size), _padded(tokens[own_rows])
        )
        return np.add.reduceat(np.asarray(result, np.float64)[: rows.size], item_starts)


@functools.partial(jax.jit, static_argnames=("config", "attention"))
def _hidden_states(
    params: Params,
    config: ModelConfig,
    token_ids: Int32[Array, "T"],
    layout: PackedLayout,
    attention: Backend,
) -> Float[Array, "T hidden"]:
    def attend(q: Array, k: Array, v: Array, _: None) -> Array:
        out = multi_item_attention(q, k, v, layout, backend=attention)
        assert isinstance(out, jax.Array)
        return out

    hidden, _ = decode(params, config, token_ids, jnp.asarray(layout.positions), attend)
    return hidden


def _padded(array: Int32[np.ndarray, "n"]) -> Int32[np.ndarray, "bucket"]:
    return np.pad(array, (0, bucket_size(array.size) - array.size))
