"""The server's limits on one request: counts before anything is tokenised, tokens after."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from isoprefill.request.errors import RequestError
from isoprefill.request.token_request import TokenRequest
from isoprefill.server.settings import Limits

MOST_LABELS = 1 << 20  # of all items of a request, padded: as many scores are answered
MOST_NUMBERS = 1 << 22  # in an answer, those of hidden states included: 80 MB as JSON


@dataclasses.dataclass(frozen=True, slots=True)
class Extent:
    """How large a request is, as far as its body tells.

    Attributes:
        num_items: how many there are.
        num_characters: at least how many will be tokenised, where a short body can mean many.
        joint: whether those are the texts query + item of all items.
        labels: by field, labels for all items or a list of them for each item.
    """

    num_items: int
    num_characters: int
    joint: bool = False
    labels: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)


def check_extent(limits: Limits, extent: Extent) -> None:
    """Raises RequestError if there are too many items, characters or labels."""
    if extent.num_items > limits.max_items:
        raise RequestError(
            "too_many_items", "items", limit=limits.max_items, value=extent.num_items
        )
    # Their texts, spelt out, would not be let in as a body either.
    if extent.joint and extent.num_characters > limits.max_body_bytes:
        raise RequestError(
            "too_many_tokens.joint",
            "items",
            limit=limits.max_body_bytes,
            value=extent.num_characters,
        )
    for field, labels in extent.labels.items():
        lists: list[Sequence[Any]] = [one for one in labels if isinstance(one, list)] or [labels]
        longest = max(map(len, lists))
        if longest > limits.max_labels:
            raise RequestError("too_many_labels", field, limit=limits.max_labels, value=longest)
        number = max(len(lists), extent.num_items)
        if number * longest > MOST_LABELS:
            raise RequestError(
                "too_many_labels.padded", field, limit=MOST_LABELS, value=number, longest=longest
            )


def check_all_tokens(limits: Limits, requests: Sequence[TokenRequest]) -> None:
    """Raises RequestError if an item, a request, or all that are scored for one body together have too many tokens."""
    for request in requests:
        limits.tokens.check(request)
    number = sum(request.num_computed_tokens for request in requests)
    if number > limits.max_request_tokens:
        raise RequestError(
            "too_many_tokens.request", "items", limit=limits.max_request_tokens, value=number
        )


def check_answer(request: TokenRequest, width: int) -> None:
    """Raises RequestError if so many numbers for each item are too many in one answer."""
    most, number = MOST_NUMBERS // max(1, width), request.num_reads
    if number > most:
        raise RequestError("too_many_items.answer", "items", limit=most, value=number, width=width)
