"""What "auto" chooses, and why. Importing this does not import jax."""

import dataclasses

from isoprefill.modes import Algorithm
from isoprefill.request import TokenRequest

QUERY_WORTH_KEEPING = (
    128  # tokens; computing fewer again takes less time than one more call of the device
)


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """An algorithm and why it was chosen, as a clause."""

    algorithm: Algorithm
    reason: str


def choose(request: TokenRequest, *, cached: bool, pack_tokens: int) -> Choice:
    """The algorithm for one request.

    Args:
        request: what is asked.
        cached: whether its query's keys and values are there from an earlier call.
        pack_tokens: rows that fit into memory in one prefill.
    """
    delimiters = 0 if request.delimiter == "none" else len(request.items) + 1
    rows = request.num_tokens + delimiters
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
    if request.query.size >= QUERY_WORTH_KEEPING:
        return Choice(
            "packed_extend",
            f"a query of {request.query.size} tokens is worth keeping for later calls (from {QUERY_WORTH_KEEPING})",
        )
    return Choice("packed", f"{rows} rows fit into one prefill and the query is short")
