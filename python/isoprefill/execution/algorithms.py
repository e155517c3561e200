"""The algorithms, and which of them "auto" chooses and why. Importing this does not import jax."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from isoprefill.execution.packing import (
    ItemGroup,
    Pack,
    equal_length_batches,
    full_packs,
    single_item_packs,
)
from isoprefill.modes import Algorithm
from isoprefill.request.token_request import TokenRequest

# Tokens of a query from which computing it apart from its items costs nothing (on two cores, SmolLM2: 30% more time
# at 300 + 10 x 20, none at 1000 + 100 x 20), and from which it pays when the query comes again.
LONG_QUERY = 512
REPEATED_QUERY = 64


class Plan(NamedTuple):
    """What an algorithm does.

    Attributes:
        cut: cuts groups into packs of a bounded number of rows.
        over_prefix: whether the prefix is computed first and kept for later calls; packs hold what follows it.
    """

    cut: Callable[[Sequence[ItemGroup], int], Iterator[Pack]]
    over_prefix: bool


PLANS: Mapping[Algorithm, Plan] = {
    "serial": Plan(single_item_packs, over_prefix=False),
    "packed": Plan(full_packs, over_prefix=False),
    "prefill_extend": Plan(equal_length_batches, over_prefix=True),
    "packed_extend": Plan(full_packs, over_prefix=True),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """An algorithm and why it was chosen, as a clause."""

    algorithm: Algorithm
    reason: str


def choose_algorithm(
    request: TokenRequest, *, cached: bool, seen_before: bool, fits_cache: bool, pack_tokens: int
) -> Choice:
    """Chooses the algorithm for one request.

    Args:
        request: what to score.
        cached: whether the cache has the keys and values of its query.
        seen_before: whether a recent request had the same query.
        fits_cache: whether the cache is large enough for the query.
        pack_tokens: rows that fit into memory in one prefill.
    """
    rows = request.num_rows
    if request.options.isolation == "causal":
        return Choice("packed", "items that see each other need one prefill")
    if request.options.item_first:
        return Choice("packed", "with item_first there is no common prefix to cache")
    if cached:
        return Choice("packed_extend", "the query is in the prefix cache")
    if rows > pack_tokens:
        return Choice(
            "packed_extend",
            f"{rows} rows are more than fit into one prefill ({pack_tokens})",
        )
    tokens = request.query.size
    if fits_cache and tokens >= LONG_QUERY:
        return Choice(
            "packed_extend",
            f"a query of {tokens} tokens (at least {LONG_QUERY}) is cached for later calls",
        )
    if fits_cache and seen_before and tokens >= REPEATED_QUERY:
        return Choice(
            "packed_extend", "the query was scored before and is now cached for later calls"
        )
    return Choice("packed", f"{rows} rows fit into one prefill")
