"""Query and items become tokens. Does not import jax."""

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int32

from isoprefill.integers import common_prefix, flat_integers, shortened
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.models.tokenizers.untrusted_text import Span, encode_spans
from isoprefill.request.errors import RequestError
from isoprefill.request.model_limits import ModelLimits
from isoprefill.request.options import ScoreOptions
from isoprefill.request.token_request import TextOrTokens, Tokens
from isoprefill.request.vectors import VectorTable, is_vectors


@dataclasses.dataclass(frozen=True, slots=True)
class InputTokens:
    """Tokenises what a request holds, for one model."""

    tokenizer: Tokenizer
    limits: ModelLimits

    def bos_alone(self) -> Tokens:
        """Returns what stands for an empty query, whether the model expects BOS or only has it."""
        bos = self.tokenizer.bos_id
        return np.asarray([] if bos is None else [bos], np.int32)

    def query(self, query: TextOrTokens, table: VectorTable, options: ScoreOptions) -> Tokens:
        """Returns the tokens of the query; vectors among them go into the table."""
        return self._tokens(query, table, not options.item_first, options, "query")

    def items(
        self, items: Iterable[TextOrTokens], table: VectorTable, options: ScoreOptions
    ) -> tuple[Tokens, ...]:
        """Returns the tokens of each item; vectors among them go into the table."""
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

    def joint(
        self, query: Any, items: list[Any], options: ScoreOptions
    ) -> tuple[Tokens, tuple[Tokens, ...], Int32[np.ndarray, "N"]]:
        """Tokenises query + item as one text; what all of them begin with, up to the boundary, is the query."""
        if not isinstance(query, str) or not all(isinstance(item, str) for item in items):
            raise RequestError("mixed_input_types.joint", "items")
        alone = self._bos() + self._encode(query, options, "query")
        if len(alone) > self.limits.max_positions:
            raise RequestError(
                "context_length_exceeded.query",
                "query",
                limit=self.limits.max_positions,
                value=len(alone),
            )
        if not query or not items:  # TokenRequest says so
            return np.asarray(alone if query else [], np.int32), (), np.asarray([], np.int32)
        texts = []
        for index, item in enumerate(items):
            if not item:
                raise RequestError("empty_item", "items", index)
            text = self._bos() + self._encode(query + item, options, "items", index)
            # Now, as the work grows with query times items.
            if len(text) > self.limits.max_positions:
                raise self.limits.too_long(len(text), index)
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

    def text(self, text: str, *, bos: bool = True, field: str = "prompt") -> list[int]:
        """Returns the tokens of a text that stands by itself, after BOS if the model expects it.

        Raises:
            RequestError: the text is not valid Unicode.
        """
        try:
            return [*(self._bos() if bos else []), *self.tokenizer.encode(text)]
        except ValueError as error:
            raise RequestError("invalid_parameter_type", field, why=str(error)) from error

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
        # They may not fit in int32.
        outside = np.flatnonzero((ids < 0) | (ids >= self.limits.vocab_size))
        if outside.size:
            raise self.limits.outside(int(ids[outside[0]]), field, *index, int(outside[0]))
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
