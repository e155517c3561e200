"""Labels given as text become tokens. Does not import jax."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.request.errors import RequestError
from isoprefill.request.labels import LabelSets

# Of all labels of a request that are of several tokens, padded to the longest.
MOST_LABEL_TOKENS = 1 << 20


def single_token(tokenizer: Tokenizer, text: str, field: str, *index: int) -> int:
    """Returns the token id of a label given as text, which continues the item.

    Added tokens, spelt out, are like any other.

    Args:
        text: the label.
        field: what to call it in errors.
        index: its place in the field.

    Raises:
        RequestError: if the text is not a single token.
    """
    ids = tokenizer.encode(text, continues=True)
    if len(ids) != 1:
        raise RequestError("invalid_label", field, *index, value=len(ids))
    return ids[0]


def label_sets(tokenizer: Tokenizer, texts: Sequence[str] | Sequence[Sequence[str]]) -> LabelSets:
    """Returns the labels given as text: one list for all items, or one for each.

    Each is tokenised by itself, as a text that continues the item: any number of tokens in sequence.

    Raises:
        RequestError: if one of them has no token, or a list has none.
    """
    _check_type(texts)
    known: dict[str, list[int]] = {}  # lists for each item are mostly alike

    def ids(text: Any, *index: int) -> Any:
        if not isinstance(text, str):
            return [ids(one, *index, place) for place, one in enumerate(text)]
        if text not in known:
            known[text] = _label_tokens(tokenizer, text, *index)
        return known[text]

    made = ids(texts)
    _check_size(texts, max(map(len, known.values())))
    labels = LabelSets.per_item if _are_lists(texts) else LabelSets.shared
    sets = labels(made, in_sequence=any(len(tokens) > 1 for tokens in known.values()))
    return dataclasses.replace(sets, field="labels")


def _check_size(texts: Sequence[str] | Sequence[Sequence[str]], longest: int) -> None:
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


def _label_tokens(tokenizer: Tokenizer, text: str, *index: int) -> list[int]:
    try:
        tokens = tokenizer.encode(text, continues=True)
    except ValueError as error:
        raise RequestError("invalid_labels_type.unicode", "labels", *index, why=error) from error
    if not tokens:
        raise RequestError("invalid_label.empty", "labels", *index)
    return tokens


def _check_type(labels: Any) -> None:
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
