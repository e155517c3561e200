"""Turns text or token ids into requests: the only place where text becomes tokens. Does not import jax."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from jaxtyping import Int32

from isoprefill.integers import common_prefix, flat_integers, shortened
from isoprefill.models.config.classes import Classes
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.models.tokenizers.untrusted_text import Span, encode_spans
from isoprefill.request.errors import RequestError
from isoprefill.request.labels import LabelSets
from isoprefill.request.options import ScoreOptions
from isoprefill.request.token_request import TextOrTokens, TokenRequest, Tokens, Vectors
from isoprefill.request.vectors import EmbedOverrides, VectorTable, is_vectors

MOST_LABEL_TOKENS = (
    1 << 20
)  # of all labels of a request that are of several tokens, padded to the longest


@dataclasses.dataclass(frozen=True, slots=True)
class Preparer:
    """Makes requests for one model.

    Attributes:
        tokenizer: the model's.
        vocab_size: tokens that the model has, added ones included (`ModelConfig.vocab_size`).
        max_positions: tokens that query and item may have together (`ModelConfig.max_positions`).
        pack_tokens: rows that fit into one prefill, in which all items must be if they see each other.
        hidden_size: width of the model's hidden states.
        classes: of a classification model; None: the model has a language-model head.
    """

    tokenizer: Tokenizer
    vocab_size: int
    max_positions: int
    pack_tokens: int
    hidden_size: int
    classes: Classes | None = None

    def request(
        self,
        query: TextOrTokens,
        items: Iterable[TextOrTokens],
        options: ScoreOptions | None = None,
        *,
        overrides: EmbedOverrides | None = None,
        request_id: str = "",
    ) -> TokenRequest:
        """Returns a request that the model can score.

        BOS, if the model expects one, begins whatever comes first, if that is text: the query, or with item_first
        each item. It is never added to token ids. So does the
        space that SentencePiece puts before a text. An empty query, of text or of ids, is BOS alone, whether the model
        expects it or only has it: something must predict an item's first token.

        Args:
            query: text, token ids, or embedding vectors [vectors, E].
            items: text, token ids, or embedding vectors each.
            options: how to score them; None is `ScoreOptions()`.
            overrides: vectors that take the places of a token in text or token ids.
            request_id: what to call the request in errors.

        Raises:
            RequestError: saying which argument is wrong, its value and the limit.
        """
        check_items_type(items)
        options = options or ScoreOptions()
        context_lens = None
        no_query = _is_empty(query) and not options.item_first
        table = VectorTable(self.hidden_size)
        if options.tokenization == "joint" and not no_query:
            query_tokens, item_tokens, context_lens = self._joint(query, list(items), options)
        else:
            query_tokens = (
                self._bos_alone()
                if no_query
                else self._tokens(query, table, not options.item_first, options, "query")
            )
            item_tokens = self._item_tokens(items, table, options)
        if overrides is not None:
            if options.tokenization == "joint":
                raise RequestError("invalid_embed_overrides.joint", "embed_override_token_id")
            query_tokens, item_tokens = _overridden(query_tokens, item_tokens, overrides, table)
        request = TokenRequest(
            query_tokens, item_tokens, options, context_lens, request_id, table.vectors
        )
        self.check(request)
        return request

    def check(self, request: TokenRequest) -> None:
        """Checks a request against the model's vocabulary and positions.

        Raises:
            RequestError: naming the argument, its value and the limit.
        """
        options = request.options
        self._check_head(request)
        lowest = 0 if request.vectors is None else -len(request.vectors)
        place = request.first_place(lambda tokens: (tokens < lowest) | (tokens >= self.vocab_size))
        if place is not None:
            field, *index = place
            tokens = request.query if field == "query" else request.items[index[0]]
            raise self._outside(int(tokens[index[-1]]), field, *index)
        if options.labels is not None and options.labels.token_ids.max() >= self.vocab_size:
            beyond = np.argwhere(options.labels.token_ids >= self.vocab_size)
            one, label, token = beyond[0].tolist()
            index = [label] if options.labels.is_shared else [one, label]
            value = int(options.labels.token_ids[one, label, token])
            raise self._outside(value, "label_token_ids", *index)
        delimiter = options.delimiter_id
        if delimiter is not None and not 0 <= delimiter < self.vocab_size:
            raise self._outside(delimiter, "delimiter_id")
        limit = min(self.max_positions, self.pack_tokens)
        if options.isolation == "causal" and request.num_rows > limit:
            raise RequestError(
                "context_length_exceeded.causal",
                "items",
                limit=limit,
                bound="the model's context length"
                if limit == self.max_positions
                else "one prefill",
                value=request.num_rows,
            )
        lens = request.item_lens
        of_labels = np.zeros_like(lens)
        if options.labels is not None:
            of_labels = options.labels.most_rows(len(request.items))
        longest = int((lens + of_labels).argmax())
        parts = [request.query.size, request.items[longest].size]
        if options.delimiter == "prefix_first":  # which takes a position of its own
            parts.append(1)
        label = int(of_labels[longest])
        if sum(parts) + label > self.max_positions:
            if request.query.size >= self.max_positions:  # no item could do better
                raise RequestError(
                    "context_length_exceeded.no_room",
                    "query",
                    limit=self.max_positions - 1,
                    value=request.query.size,
                )
            sizes = " + ".join(map(str, [*parts, label] if label else parts))
            self._raise_too_long(sizes, longest, ".label" if label else "")

    def text_tokens(self, text: str, *, bos: bool = True, field: str = "prompt") -> list[int]:
        """Returns the tokens of a text that stands by itself, after BOS if the model expects it.

        Raises:
            RequestError: the text is not valid Unicode.
        """
        try:
            return [*(self._bos() if bos else []), *self.tokenizer.encode(text)]
        except ValueError as error:
            raise RequestError("invalid_parameter_type", field, why=str(error)) from error

    def _check_head(self, request: TokenRequest) -> None:
        """Checks that the model can say what is asked of it."""
        options = request.options
        if self.classes is not None:
            if options.labels is not None:
                raise RequestError("classification_model", "label_token_ids")
            if options.return_token_logprobs:
                raise RequestError("classification_model", "return_token_logprobs")
        elif options.labels is None:
            if options.apply_softmax:
                raise RequestError("missing_label_token_ids", "label_token_ids")
            if options.return_pooled_hidden_states:
                raise RequestError("missing_label_token_ids.pooled", "return_pooled_hidden_states")
            if options.extraction_token_id is not None:
                raise RequestError("invalid_extraction_token.labels", "extraction_token_id")
        if request.vectors is not None:
            self._check_vectors(request, request.vectors)

    def _check_vectors(self, request: TokenRequest, vectors: Vectors) -> None:
        if vectors.shape[1] != self.hidden_size:
            raise RequestError(
                "invalid_embed_overrides.width",
                "vectors",
                limit=self.hidden_size,
                value=vectors.shape[1],
            )
        options = request.options
        by_likelihood = self.classes is None and options.labels is None
        if not by_likelihood and not options.return_token_logprobs:
            return
        if options.item_first:
            if (request.query < 0).any():
                raise RequestError("invalid_embed_overrides.likelihood", "query")
            return
        for index, item in enumerate(request.items):
            if (item < 0).any():
                raise RequestError("invalid_embed_overrides.likelihood", "items", index)

    def item_answer_size(self, options: ScoreOptions) -> int:
        """Returns how many numbers come back for an item, beside log-probabilities of its tokens."""
        size = self.hidden_size if options.return_pooled_hidden_states else 0
        if self.classes is not None:
            return size + len(self.classes.names)
        if options.labels is not None:
            _, labels, tokens = options.labels.token_ids.shape
            size += labels * tokens
        return size

    def label_id(self, text: str, field: str = "label", *index: int) -> int:
        """Returns the token id of a label given as text, which continues the item.

        Added tokens, spelt out, are like any other.

        Args:
            text: the label.
            field: what to call it in errors.
            index: its place in the field.

        Raises:
            RequestError: if the text is not a single token.
        """
        ids = self.tokenizer.encode(text, continues=True)
        if len(ids) != 1:
            raise RequestError("invalid_label", field, *index, value=len(ids))
        return ids[0]

    def labels(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> LabelSets:
        """Returns the labels given as text: one list for all items, or one for each.

        Each is tokenised by itself, as a text that continues the item: any number of tokens in sequence.

        Raises:
            RequestError: if one of them has no token, a list has none, or the model has classes instead.
        """
        if self.classes is not None:
            raise RequestError("classification_model", "labels")
        check_labels_type(texts)
        known: dict[str, list[int]] = {}  # lists for each item are mostly alike

        def ids(text: Any, *index: int) -> Any:
            if not isinstance(text, str):
                return [ids(one, *index, place) for place, one in enumerate(text)]
            if text not in known:
                known[text] = self._label_tokens(text, *index)
            return known[text]

        made = ids(texts)
        self._check_labels(texts, max(map(len, known.values())))
        labels = LabelSets.per_item if _are_lists(texts) else LabelSets.shared
        return labels(made, in_sequence=any(len(tokens) > 1 for tokens in known.values()))

    def _check_labels(self, texts: Sequence[str] | Sequence[Sequence[str]], longest: int) -> None:
        """Checks what labels take when all are padded to the longest."""
        lists = texts if _are_lists(texts) else [texts]
        number, most = len(lists), max(map(len, lists))
        if number * most * longest > MOST_LABEL_TOKENS and longest > 1:
            raise RequestError(
                "too_many_labels.tokens",
                "labels",
                limit=MOST_LABEL_TOKENS,
                value=f"{number} x {most}",
                longest=longest,
            )

    def _label_tokens(self, text: str, *index: int) -> list[int]:
        try:
            tokens = self.tokenizer.encode(text, continues=True)
        except ValueError as error:
            raise RequestError(
                "invalid_labels_type.unicode", "labels", *index, why=error
            ) from error
        if not tokens:
            raise RequestError("invalid_label.empty", "labels", *index)
        return tokens

    def _item_tokens(
        self, items: Iterable[TextOrTokens], table: VectorTable, options: ScoreOptions
    ) -> tuple[Tokens, ...]:
        begins_text = options.item_first
        if (
            not options.untrusted_text
            and isinstance(items, list)
            and all(type(item) is str for item in items)
        ):
            bos = self._bos() if begins_text else []
            with contextlib.suppress(ValueError):  # below it is said of which item
                lists = self.tokenizer.encode_each(items, continues=not begins_text)
                return tuple([np.array(bos + one if one else one, np.int32) for one in lists])
        return tuple(
            self._tokens(item, table, begins_text, options, "items", index)
            for index, item in enumerate(items)
        )

    def _tokens(
        self,
        value: TextOrTokens,
        table: VectorTable,
        begins_text: bool,
        options: ScoreOptions,
        field: str,
        *index: int,
    ) -> Tokens:
        if is_vectors(value):
            return table.add(value, field, *index)
        if isinstance(value, str):
            tokens = self._encode(value, options, field, *index, continues=not begins_text)
            return np.asarray([*(self._bos() if tokens and begins_text else []), *tokens], np.int32)
        try:
            ids = flat_integers(field, value)
        except ValueError:
            raise RequestError(
                f"invalid_{field}_type",
                field,
                *index,
                expected="text or a flat list of token ids",
                got=shortened(value),
            ) from None
        outside = np.flatnonzero((ids < 0) | (ids >= self.vocab_size))  # they may not fit in int32
        if outside.size:
            raise self._outside(int(ids[outside[0]]), field, *index, int(outside[0]))
        return ids.astype(np.int32)

    def _encode(
        self,
        text: str,
        options: ScoreOptions,
        field: str,
        *index: int,
        continues: bool = False,
    ) -> list[int]:
        try:
            if not options.untrusted_text:
                return self.tokenizer.encode(text, continues=continues)
            return encode_spans(self.tokenizer, [Span(text)], continues=continues)
        except ValueError as error:
            raise RequestError(
                f"invalid_{field}_type.unicode", field, *index, why=str(error)
            ) from error

    def _bos(self) -> list[int]:
        tokenizer = self.tokenizer
        return [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []

    def _bos_alone(self) -> Tokens:
        bos = self.tokenizer.bos_id
        return np.asarray([] if bos is None else [bos], np.int32)

    def _joint(
        self, query: Any, items: list[Any], options: ScoreOptions
    ) -> tuple[Tokens, tuple[Tokens, ...], Int32[np.ndarray, "N"]]:
        """Tokenises query + item as one text; what all of them begin with, up to the boundary, is the query."""
        if not isinstance(query, str) or not all(isinstance(item, str) for item in items):
            raise RequestError("mixed_input_types.joint", "items")
        alone = self._bos() + self._encode(query, options, "query")
        if len(alone) > self.max_positions:
            raise RequestError(
                "context_length_exceeded.query",
                "query",
                limit=self.max_positions,
                value=len(alone),
            )
        if not query or not items:  # TokenRequest says so
            return np.asarray(alone if query else [], np.int32), (), np.asarray([], np.int32)
        texts = []
        for index, item in enumerate(items):
            if not item:
                raise RequestError("empty_item", "items", index)
            text = self._bos() + self._encode(query + item, options, "items", index)
            if len(text) > self.max_positions:  # now, as the work grows with query times items
                self._raise_too_long(len(text), index)
            texts.append(text)
        borders = [common_prefix(alone, text) for text in texts]
        for index, (border, text) in enumerate(zip(borders, texts, strict=True)):
            if border == len(text):
                raise RequestError("empty_item.joint", "items", index)
        shared = min(borders)
        if not shared:
            raise RequestError("empty_query.joint", "query", number=borders.index(0))
        return (
            np.asarray(alone[:shared], np.int32),
            tuple(np.asarray(text[shared:], np.int32) for text in texts),
            np.asarray([border - shared for border in borders], np.int32),
        )

    def _raise_too_long(self, value: object, index: int, rule: str = "") -> None:
        rule = f"context_length_exceeded{rule}"
        raise RequestError(rule, "items", index, limit=self.max_positions, value=value)

    def _outside(self, token: int, field: str, *index: int) -> RequestError:
        rule = "negative_token_id.vocabulary" if token < 0 else "token_id_exceeds_vocab"
        return RequestError(rule, field, *index, limit=self.vocab_size, value=token)


def _is_empty(query: Any) -> bool:
    return isinstance(query, str | Sequence | np.ndarray) and len(query) == 0


def _overridden(
    query: Tokens, items: tuple[Tokens, ...], overrides: EmbedOverrides, table: VectorTable
) -> tuple[Tokens, tuple[Tokens, ...]]:
    """Returns query and items with vectors in the places of the override token."""
    token = overrides.token_id
    if overrides.query is not None:
        query = table.override(query, token, overrides.query, "query_embed_overrides")
    if overrides.items is None:
        return query, items
    field = "item_embed_overrides"
    if len(overrides.items) != len(items):
        raise RequestError(
            "invalid_embed_overrides.items", field, limit=len(items), value=len(overrides.items)
        )
    return query, tuple(
        item if vectors is None else table.override(item, token, vectors, field, index)
        for index, (item, vectors) in enumerate(zip(items, overrides.items, strict=True))
    )


def check_labels_type(labels: Any) -> None:
    """Raises RequestError unless these are texts, or lists of texts."""
    for one in labels if _are_lists(labels) else [labels]:
        is_list = isinstance(one, Sequence) and not isinstance(one, str)
        if not is_list or not all(isinstance(text, str) for text in one):
            raise RequestError("invalid_labels_type", "labels")
        if not one:
            raise RequestError("empty_label_token_ids.text", "labels")


def _are_lists(labels: Any) -> bool:
    """Whether there is a list of labels for each item."""
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        return False
    return len(labels) > 0 and not any(isinstance(one, str) for one in labels)


def check_items_type(items: Any) -> None:
    """Raises RequestError for what is no list of items, but would give some if it were iterated over."""
    if isinstance(items, str | bytes | Mapping | Set) or not isinstance(items, Iterable):
        raise RequestError(
            "invalid_items_type",
            "items",
            expected="a list of texts or of token lists",
            got=type(items).__name__,
        )
