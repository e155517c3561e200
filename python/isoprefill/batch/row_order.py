"""Brings the rows of a table into another order, also where a column has more text than one Arrow array can hold."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int


def rows_in_order(table: Any, order: Int[np.ndarray, "rows"]) -> Any:
    """Returns rows of a pyarrow.Table in this order, with the table's types.

    An array of text has at most 2 GB, and pyarrow takes rows of a column as one. A column with more is widened for
    that, and comes back as several chunks.
    """
    import pyarrow as pa

    try:
        return table.take(order).combine_chunks()
    except pa.ArrowInvalid:
        wide = pa.schema([one.with_type(_widened(one.type)) for one in table.schema])
        return pa.concat_tables(_pieces(table.cast(wide), order, table.schema))


def _pieces(wide: Any, order: Int[np.ndarray, "rows"], schema: Any) -> Iterator[Any]:
    """Yields the rows with their own types, in as many pieces as these need."""
    import pyarrow as pa

    try:
        piece = wide.take(order).cast(schema)
    except pa.ArrowInvalid:
        if order.size == 1:
            raise
        half = order.size // 2
        yield from _pieces(wide, order[:half], schema)
        yield from _pieces(wide, order[half:], schema)
    else:
        yield piece


def _widened(kind: Any) -> Any:
    """Returns the type whose offsets have 64 bits."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_binary(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_field
        return pa.large_list(inner.with_type(_widened(inner.type)))
    if pa.types.is_struct(kind):
        return pa.struct([one.with_type(_widened(one.type)) for one in kind])
    return kind
