"""What "auto" chooses, and why. Importing this does not import jax."""

import dataclasses

from isoprefill.modes import Algorithm
from isoprefill.request.token_request import TokenRequest

# Tokens of a query from which computing it apart from its items costs nothing (on two cores, SmolLM2: 30% more time
# at 300 + 10 x 20, none at 1000 + 100 x 20), and from which it pays when the query comes again.
LONG_QUERY = 512
REPEATED_QUERY = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """An algorithm and why it was chosen, as a clause."""

    algorithm: Algorithm
    reason: str


def choose(
    request: TokenRequest, *, cached: bool, seen_before: bool, keeps: bool, pack_tokens: int
) -> Choice:
    """The algorithm for one request.

    Args:
        request: what is asked.
        cached: whether its query's keys and values are there from an earlier call.
        seen_before: whether the same query was asked lately.
        keeps: whether the cache has room for it.
        pack_tokens: rows that fit into memory in one prefill.
    """
    rows = request.num_rows
    if request.isolation == "causal":
        return Choice("packed", "items that see each other need one prefill")
    if request.item_first:
        return Choice("packed", "with item_first there is no common prefix to keep")
    if cached:
        return Choice("packed_extend", "the query is in the prefix cache")
    if rows > pack_tokens:
        return Choice(
            "packed_extend",
            f"{rows} rows are more than fit into one prefill ({pack_tokens})",
        )
    tokens = request.query.size
    if keeps and tokens >= LONG_QUERY:
        return Choice(
            "packed_extend",
            f"a query of {tokens} tokens (from {LONG_QUERY}) is kept for later calls",
        )
    if keeps and seen_before and tokens >= REPEATED_QUERY:
        return Choice("packed_extend", "the query came before and is now kept for later calls")
    return Choice("packed", f"{rows} rows fit into one prefill")


def choices_in_time(request: TokenRequest, *, keeps: bool, pack_tokens: int) -> list[Algorithm]:
    """What is chosen for such a request when its query is new, and when it comes again."""
    chosen = [
        choose(
            request, cached=False, seen_before=again, keeps=keeps, pack_tokens=pack_tokens
        ).algorithm
        for again in (False, True)
    ]
    return list(dict.fromkeys(chosen))
