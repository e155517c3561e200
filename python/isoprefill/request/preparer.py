"""Turns text or token ids into requests: the only place where text becomes tokens. Does not import jax."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.request.errors import RequestError
from isoprefill.request.input_tokens import InputTokens
from isoprefill.request.label_texts import label_sets, single_token
from isoprefill.request.labels import LabelSets
from isoprefill.request.model_limits import ModelLimits
from isoprefill.request.options import ScoreOptions
from isoprefill.request.token_request import TextOrTokens, TokenRequest, Tokens
from isoprefill.request.vectors import EmbedOverrides, VectorTable


@dataclasses.dataclass(frozen=True, slots=True)
class Preparer:
    """Makes requests for one model.

    Attributes:
        tokenizer: the model's.
        limits: what the model can take and answer.
    """

    tokenizer: Tokenizer
    limits: ModelLimits

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
        table = VectorTable(self.limits.hidden_size)
        if _is_empty(query) and not options.item_first:
            query_tokens = self._tokens.bos_alone()
            item_tokens = self._tokens.items(items, table, options)
        elif options.tokenization == "joint":
            query_tokens, item_tokens, context_lens = self._tokens.joint(
                query, list(items), options
            )
        else:
            query_tokens = self._tokens.query(query, table, options)
            item_tokens = self._tokens.items(items, table, options)
        if overrides is not None:
            if options.tokenization == "joint":
                raise RequestError("invalid_embed_overrides.joint", "embed_override_token_id")
            query_tokens, item_tokens = _overridden(query_tokens, item_tokens, overrides, table)
        made = TokenRequest(
            query_tokens, item_tokens, options, context_lens, request_id, table.vectors
        )
        self.limits.check(made)
        return made

    def text_tokens(self, text: str, *, bos: bool = True, field: str = "prompt") -> list[int]:
        """Returns the tokens of a text that stands by itself, after BOS if the model expects it.

        Raises:
            RequestError: the text is not valid Unicode.
        """
        return self._tokens.text(text, bos=bos, field=field)

    def label_id(self, text: str, field: str = "label", *index: int) -> int:
        """Returns the token id of a label given as text; see `label_texts.single_token`.

        Raises:
            RequestError: if the text is not a single token.
        """
        return single_token(self.tokenizer, text, field, *index)

    def labels(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> LabelSets:
        """Returns the labels given as text: one list for all items, or one for each.

        Each is tokenised by itself, as a text that continues the item: any number of tokens in sequence.

        Raises:
            RequestError: if one of them has no token, a list has none, or the model has classes instead.
        """
        if self.limits.classes is not None:
            raise RequestError("classification_model", "labels")
        return label_sets(self.tokenizer, texts)

    @property
    def _tokens(self) -> InputTokens:
        return InputTokens(self.tokenizer, self.limits)


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


def check_items_type(items: Any) -> None:
    """Raises RequestError for what is no list of items, but would give some if it were iterated over."""
    if isinstance(items, str | bytes | Mapping | Set) or not isinstance(items, Iterable):
        raise RequestError(
            "invalid_items_type",
            "items",
            expected="a list of texts or of token lists",
            got=type(items).__name__,
        )
