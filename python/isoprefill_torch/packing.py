"""Packs a query and its items into one row of tokens, by the definition in docs/design.md.

T rows, N items.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

Delimiter = Literal["none", "hidden", "prefix_first"]

DELIMITER_SEGMENT = -2


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """A packed request."""

    token_ids: Int[Tensor, "T"]
    segments: Int[Tensor, "T"]  # 0: prefix, k: item k, or DELIMITER_SEGMENT
    positions: Int[Tensor, "T"]
    prefix_len: int
    context_rows: tuple[int, ...]  # the row that predicts each item's first token
    first_rows: tuple[int, ...]  # the row of each item's first token
    item_lens: tuple[int, ...]


def prefix_tokens(
    query: Sequence[int], delimiter: Delimiter, delimiter_id: int | None
) -> list[int]:
    """Returns the tokens that every item sees: the query, and with `prefix_first` the first delimiter.

    Raises:
        ValueError: a delimiter mode without a token for it.
    """
    if delimiter == "none":
        return list(query)
    if delimiter_id is None:
        raise ValueError(f"delimiter {delimiter!r} needs a delimiter_id, got None")
    return [*query, delimiter_id] if delimiter == "prefix_first" else list(query)


def pack(
    query: Sequence[int],
    items: Sequence[Sequence[int]],
    delimiter: Delimiter = "none",
    delimiter_id: int | None = None,
    *,
    causal: bool = False,
) -> Packing:
    """Packs `q i1 i2 …`, or `q <d> i1 <d> i2 <d> …` with delimiters.

    Args:
        query, items: token ids.
        delimiter: as in docs/design.md.
        delimiter_id: the delimiter's token.
        causal: positions run on, and an item's first token is predicted by the row just before it, as
            they are for a back end without a multi-item mask.

    Raises:
        ValueError: a delimiter mode without a token for it.
    """
    prefix = prefix_tokens(query, delimiter, delimiter_id)
    tokens, segments = list(prefix), [0] * len(prefix)
    positions = list(range(len(prefix)))

    def add_delimiter() -> None:
        assert delimiter_id is not None
        tokens.append(delimiter_id)
        segments.append(DELIMITER_SEGMENT)
        positions.append(len(prefix) - 1)

    if delimiter == "hidden":
        add_delimiter()
    first_rows = []
    for number, item in enumerate(items, 1):
        first_rows.append(len(tokens))
        tokens += item
        segments += [number] * len(item)
        positions += range(len(prefix), len(prefix) + len(item))
        if delimiter != "none":
            add_delimiter()
    return Packing(
        torch.tensor(tokens),
        torch.tensor(segments),
        torch.arange(len(tokens)) if causal else torch.tensor(positions),
        len(prefix),
        tuple(row - 1 if causal else len(prefix) - 1 for row in first_rows),
        tuple(first_rows),
        tuple(len(item) for item in items),
    )
