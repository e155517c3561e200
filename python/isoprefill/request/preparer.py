"""From text or token ids to requests: the only place where text becomes tokens. Importing this does not import jax."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, get_args

import numpy as np
from jaxtyping import Int32

from isoprefill.integers import flat_integers
from isoprefill.models.tokenizer import Tokenizer
from isoprefill.modes import Delimiter, Isolation, Tokenization
from isoprefill.request.errors import RequestError
from isoprefill.request.labels import LabelSets
from isoprefill.request.token_request import TextOrTokens, TokenRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Preparer:
    """Makes requests for one model.

    Attributes:
        tokenizer: the model's.
        vocab_size: tokens that the model has, added ones included (`ModelConfig.vocab_size`).
        max_positions: tokens that query and item may have together (`ModelConfig.max_positions`).
        pack_tokens: rows that fit into one prefill, in which all items must be if they see each other.
    """

    tokenizer: Tokenizer
    vocab_size: int
    max_positions: int
    pack_tokens: int

    def request(
        self,
        query: TextOrTokens,
        items: Iterable[TextOrTokens],
        label_token_ids: Sequence[int] | Sequence[Sequence[int]] | LabelSets | None = None,
        *,
        item_first: bool = False,
        isolation: Isolation = "isolated",
        delimiter: Delimiter = "none",
        delimiter_id: int | None = None,
        tokenization: Tokenization = "separate",
        return_token_logprobs: bool = False,
        request_id: str = "",
    ) -> TokenRequest:
        """A request that the model can score.

        BOS, if the model expects one, begins whatever comes first, if that is text: the query, or with item_first
        each item. It is never added to token ids.

        Args:
            query: text or token ids.
            items: text or token ids each.
            label_token_ids: labels for all items, or one list for each, or `LabelSets`.
            item_first, isolation, delimiter, delimiter_id, return_token_logprobs, request_id: see `TokenRequest`.
            tokenization: "separate" tokenises the query and each item on its own; "joint" tokenises query + item
                as one text, so that a word may cross the border (docs/scoring.md).

        Raises:
            RequestError: saying which argument is wrong, its value and the limit.
        """
        check_items_type(items)
        if tokenization not in get_args(Tokenization):
            raise RequestError(
                f"tokenization must be one of {get_args(Tokenization)}, got {tokenization!r}",
                code="invalid_tokenization",
                param="tokenization",
            )
        labels = None if label_token_ids is None else LabelSets.parse(label_token_ids)
        context_lens = None
        if tokenization == "joint":
            if item_first:
                raise RequestError(
                    "tokenization 'joint' is for query + item: it has no meaning with item_first",
                    code="invalid_tokenization",
                    param="tokenization",
                )
            query_tokens, item_tokens, context_lens = self._joint(query, list(items))
        else:
            query_tokens = self._tokens("query", query, begins_text=not item_first)
            item_tokens = tuple(
                self._tokens(f"items[{index}]", item, begins_text=item_first)
                for index, item in enumerate(items)
            )
        request = TokenRequest(
            query_tokens,
            item_tokens,
            labels=labels,
            isolation=isolation,
            delimiter=delimiter,
            delimiter_id=delimiter_id,
            item_first=item_first,
            item_context_lens=context_lens,
            return_token_logprobs=return_token_logprobs,
            request_id=request_id,
        )
        self.check(request)
        return request

    def check(self, request: TokenRequest) -> None:
        """Checks a request against the model's vocabulary and positions.

        Raises:
            RequestError: naming the argument, its value and the limit.
        """
        self._check_vocabulary("query", request.query)
        for index, item in enumerate(request.items):
            self._check_vocabulary(f"items[{index}]", item)
        if request.labels is not None:
            ids = request.labels.token_ids
            beyond = np.argwhere(ids >= self.vocab_size)
            if beyond.size:
                of, label, token = beyond[0]
                place = f"[{label}]" if request.labels.is_shared else f"[{of}][{label}]"
                raise self._outside(f"label_token_ids{place}", int(ids[of, label, token]))
        if request.delimiter_id is not None:
            self._check_vocabulary("delimiter_id", np.asarray([request.delimiter_id]))
        limit = min(self.max_positions, self.pack_tokens)
        if request.isolation == "causal" and request.num_rows > limit:
            what = "the model's positions" if limit == self.max_positions else "one prefill"
            raise RequestError(
                f"with isolation 'causal' the query and all items must have at most {limit} tokens together ({what}), "
                f"delimiters included, got {request.num_rows}",
                code="context_length_exceeded",
                param="items",
            )
        index, longest = max(enumerate(request.items), key=lambda item: item[1].size)
        delimiter = int(request.delimiter == "prefix_first")  # which takes a position of its own
        if request.query.size + longest.size + delimiter > self.max_positions:
            raise RequestError(
                f"query and items[{index}] must have at most {self.max_positions} tokens together (the model's "
                f"positions), got {request.query.size} + {longest.size}"
                + (" + 1 delimiter" if delimiter else ""),
                code="context_length_exceeded",
                param=f"items[{index}]",
            )

    def label_id(self, text: str, name: str = "label") -> int:
        """The token id of a label given as text, `name` in messages. Added tokens, spelt out, are like any other.

        Raises:
            RequestError: if the text is not a single token.
        """
        ids = self.tokenizer.encode(text)
        if len(ids) != 1:
            raise RequestError(
                f"{name} must be a single token, got {len(ids)}",
                code="invalid_label",
                param=name,
            )
        return ids[0]

    def _tokens(
        self, name: str, value: TextOrTokens, *, begins_text: bool
    ) -> Int32[np.ndarray, "tokens"]:
        if isinstance(value, str):
            tokens = self._encode(name, value)
            bos = self._bos() if tokens and begins_text else []
            return np.asarray([*bos, *tokens], np.int32)
        try:
            ids = flat_integers(name, value, "text or a flat list of token ids")
        except ValueError as error:
            raise RequestError(str(error), code=_type_code(name), param=name) from None
        self._check_vocabulary(name, ids)
        return ids.astype(np.int32)

    def _encode(self, name: str, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text)
        except ValueError as error:
            raise RequestError(f"{name}: {error}", code=_type_code(name), param=name) from error

    def _bos(self) -> list[int]:
        tokenizer = self.tokenizer
        return [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []

    def _joint(
        self, query: Any, items: list[Any]
    ) -> tuple[
        Int32[np.ndarray, "tokens"],
        tuple[Int32[np.ndarray, "tokens"], ...],
        Int32[np.ndarray, "N"],
    ]:
        """Tokenises query + item as one text; what all of them begin with, up to the border, is the query."""
        if not isinstance(query, str) or not all(isinstance(item, str) for item in items):
            raise RequestError(
                "tokenization 'joint' needs the query and all items as text",
                code="mixed_input_types",
                param="items",
            )
        alone = self._bos() + self._encode("query", query)
        self._check_text("query", alone)
        if not query or not items:  # TokenRequest says so
            return np.asarray(alone if query else [], np.int32), (), np.asarray([], np.int32)
        texts = []
        for index, item in enumerate(items):
            if not item:
                raise RequestError(
                    f"items[{index}] must hold at least 1 token, got 0",
                    code="empty_item",
                    param=f"items[{index}]",
                )
            texts.append(self._bos() + self._encode(f"items[{index}]", query + item))
            self._check_text(f"items[{index}]", texts[-1])
        borders = [_common_prefix(alone, text) for text in texts]
        for index, (border, text) in enumerate(zip(borders, texts, strict=True)):
            if border == len(text):
                raise RequestError(
                    f"items[{index}] must add at least 1 token to the query, got 0",
                    code="empty_item",
                    param=f"items[{index}]",
                )
        shared = min(borders)
        if not shared:
            index = borders.index(0)
            raise RequestError(
                f"with tokenization 'joint' items[{index}] must leave the query at least 1 token of its own, but "
                "its first token crosses the border",
                code="empty_query",
                param="query",
            )
        return (
            np.asarray(alone[:shared], np.int32),
            tuple(np.asarray(text[shared:], np.int32) for text in texts),
            np.asarray([border - shared for border in borders], np.int32),
        )

    def _check_text(self, name: str, tokens: list[int]) -> None:
        """Of joint texts, before the next is tokenised: the work grows with query times items."""
        if len(tokens) > self.max_positions:
            whose = "query" if name == "query" else f"query and {name}"
            raise RequestError(
                f"{whose} must have at most {self.max_positions} tokens together (the model's positions), got "
                f"{len(tokens)}",
                code="context_length_exceeded",
                param=name,
            )

    def _check_vocabulary(self, name: str, tokens: np.ndarray) -> None:
        outside = np.flatnonzero((tokens < 0) | (tokens >= self.vocab_size))
        if outside.size:
            place = "" if name == "delimiter_id" else f"[{outside[0]}]"
            raise self._outside(f"{name}{place}", int(tokens[outside[0]]))

    def _outside(self, name: str, token: int) -> RequestError:
        return RequestError(
            f"{name} must be in [0, {self.vocab_size}), got {token}",
            code="negative_token_id" if token < 0 else "token_id_exceeds_vocab",
            param=name,
        )


def check_items_type(items: Any) -> None:
    """Raises RequestError for what is no list of items, but would give some if it were iterated over."""
    if isinstance(items, str | bytes | Mapping | Set) or not isinstance(items, Iterable):
        raise RequestError(
            f"items must be a list of texts or of token lists, got {type(items).__name__}",
            code="invalid_items_type",
            param="items",
        )


def _type_code(name: str) -> str:
    return f"invalid_{name.split('[')[0]}_type"


def _common_prefix(one: list[int], other: list[int]) -> int:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
