"""Between our layouts and FlashInfer's arguments, in NumPy: FlashInfer itself is not imported, nor is a GPU needed.

FlashInfer's paged prefill takes multi-item batches in two forms:

- four parameters, for packs with hidden delimiters, `q <d> i1 <d> i2 <d> … iN <d>`. Whether a query position sees a
  column follows from them alone. FlashInfer applies them in its paged wrapper only; others take them and ignore them.
- a packed mask, a bit for each pair of a query position and a column, request after request: for any layout, at
  the cost of those bits.

    wrapper.plan(…, causal=True, **{name: as_tensor(value) for name, value in parameters(layout).items()})
    wrapper.plan(…, packed_custom_mask=torch.from_numpy(packed_mask(layout)[0]).cuda())

Requests are FlashInfer's sequences, in order; padding of a layout has no counterpart there.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from isoprefill.attention.layout import PackedLayout
from isoprefill.integers import flat_integers
from isoprefill.modes import Delimiter

PARAMETERS = (
    "prefix_len_ptr",
    "token_pos_in_items_ptr",
    "token_pos_in_items_len",
    "max_item_len_ptr",
)


def parameters(layout: PackedLayout) -> dict[str, Any]:
    """The four multi-item parameters of a layout, by the names of `plan`'s arguments.

    Returns:
        prefix_len_ptr: uint32 [R].
        token_pos_in_items_ptr: uint16 [R * token_pos_in_items_len], from each request's first delimiter on: 0 on a
            delimiter, 1, 2, … inside an item; shorter requests end in zeros.
        token_pos_in_items_len: an int.
        max_item_len_ptr: uint16 [R].

    Raises:
        ValueError: unless every delimiter is "hidden", or if an item is longer than 65,535 tokens.
    """
    made = layout.flashinfer_params()
    return made | {"token_pos_in_items_ptr": made["token_pos_in_items_ptr"].reshape(-1)}


def layout_from_parameters(
    params: Mapping[str, Any], *, cached_prefix: bool = False
) -> PackedLayout:
    """The layout with hidden delimiters that FlashInfer's parameters describe.

    Args:
        params: as `parameters` returns them; arrays of any integer dtype. A single request may leave out the zeros
            behind its last delimiter.
        cached_prefix: the batch's query positions begin behind the prefix.

    Raises:
        ValueError: naming the parameter, the request and what is wrong with it.
    """
    for name in PARAMETERS:
        if params.get(name) is None:
            raise ValueError(f"{name} must be given: FlashInfer takes all of {PARAMETERS}")
    prefix_lens = flat_integers("prefix_len_ptr", params["prefix_len_ptr"])
    max_item_lens = flat_integers("max_item_len_ptr", params["max_item_len_ptr"])
    positions = flat_integers("token_pos_in_items_ptr", np.ravel(params["token_pos_in_items_ptr"]))
    row_len, requests = int(params["token_pos_in_items_len"]), prefix_lens.size
    if max_item_lens.size != requests:
        raise ValueError(
            f"max_item_len_ptr must hold one length for each of the {requests} requests, got {max_item_lens.size}"
        )
    if positions.size != requests * row_len and not (requests == 1 and positions.size < row_len):
        raise ValueError(
            f"token_pos_in_items_ptr must hold {requests} rows of token_pos_in_items_len = {row_len}, got "
            f"{positions.size} values"
        )
    layouts = []
    for request in range(requests):
        row = positions[request * row_len : (request + 1) * row_len]
        item_lens = _item_lens(request, row)
        if max(item_lens, default=0) != max_item_lens[request]:
            raise ValueError(
                f"max_item_len_ptr[{request}] must be the longest item's {max(item_lens, default=0)} tokens, got "
                f"{max_item_lens[request]}"
            )
        layouts.append(
            PackedLayout.from_lengths(
                int(prefix_lens[request]), item_lens, "hidden", cached_prefix=cached_prefix
            )
        )
    return PackedLayout.concat(layouts)


def packed_mask(
    layout: PackedLayout,
) -> tuple[UInt8[np.ndarray, "bytes"], Int[np.ndarray, "R+1"]]:
    """FlashInfer's packed custom mask of a layout, and the byte at which each request begins.

    A request of n query positions and m columns takes (n * m + 7) // 8 bytes: row-major, least significant bit first.
    """
    return layout.packed_bits(), layout.packed_bit_offsets()


def layout_from_packed_mask(
    bits: UInt8[np.ndarray, "bytes"], qo_lens: Iterable[int], kv_lens: Iterable[int]
) -> PackedLayout:
    """The layout whose packed mask this is.

    A mask does not tell everything: one item without delimiters is masked like a longer prefix without items, and
    comes back as the latter; isolation "causal" likewise.

    Args:
        bits: the mask of all requests, one after another.
        qo_lens: query positions of each request.
        kv_lens: columns of each request; more than query positions if its prefix is cached.

    Raises:
        ValueError: bits are not uint8, a request's mask is not that of a layout, or the bytes do not match the
            lengths; says which.
    """
    rows, columns = flat_integers("qo_lens", qo_lens), flat_integers("kv_lens", kv_lens)
    if rows.shape != columns.shape or not rows.size:
        raise ValueError(
            f"qo_lens and kv_lens must hold one length a request, got {rows.size} and {columns.size}"
        )
    bits = np.asarray(bits)
    if bits.dtype != np.uint8:
        raise ValueError(f"bits must be uint8, got {bits.dtype}")
    begin, layouts = 0, []
    for request, (n, m) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        if not 1 <= n <= m:
            raise ValueError(
                f"qo_lens[{request}] must be from 1 to kv_lens[{request}] = {m}, got {n}"
            )
        end = begin + (n * m + 7) // 8
        mask = np.unpackbits(bits[begin:end], bitorder="little")[: n * m]
        if mask.size != n * m:
            raise ValueError(f"bits ends within request {request}: {bits.size} bytes")
        layouts.append(_layout_of_mask(request, mask.reshape(n, m).astype(np.bool_)))
        begin = end
    if begin != bits.size:
        raise ValueError(f"bits must hold {begin} bytes for these lengths, got {bits.size}")
    return PackedLayout.concat(layouts)


def _item_lens(request: int, positions: Int[np.ndarray, "n"]) -> list[int]:
    """The items between delimiters; zeros behind the last delimiter are padding. No position at all is no item."""
    if not positions.size:
        return []
    delimiters = np.flatnonzero(positions == 0)
    where = f"token_pos_in_items_ptr of request {request}"
    if positions[0] != 0 or positions[-1] != 0:
        raise ValueError(f"{where} must begin and end with a delimiter's 0")
    since = (
        np.arange(positions.size)
        - delimiters[np.searchsorted(delimiters, np.arange(positions.size), "right") - 1]
    )
    wrong = np.flatnonzero(positions != since)
    if wrong.size:
        raise ValueError(
            f"{where} must count 0, 1, 2, … from each delimiter, got {positions[wrong[0]]} at {wrong[0]}"
        )
    lengths = np.diff(delimiters) - 1
    used = np.flatnonzero(lengths)
    lengths = lengths[: used[-1] + 1] if used.size else lengths[:0]
    if not lengths.all():
        empty = int(np.flatnonzero(lengths == 0)[0])
        raise ValueError(f"{where} must not have an empty item, got one as item {empty}")
    return lengths.tolist()


def _layout_of_mask(request: int, mask: Bool[np.ndarray, "n m"]) -> PackedLayout:
    n, m = mask.shape
    column_of_row = np.arange(m - n, m)
    prefix_len, item_lens, delimiter = _lengths_of_mask(mask, column_of_row)
    try:
        layout = PackedLayout.from_lengths(prefix_len, item_lens, delimiter, cached_prefix=n < m)
    except ValueError as error:
        raise ValueError(f"the mask of request {request} is of no layout: {error}") from error
    found = layout.dense_mask()
    if found.shape != mask.shape or (found != mask).any():
        raise ValueError(f"the mask of request {request} is of no layout")
    return layout


def _lengths_of_mask(
    mask: Bool[np.ndarray, "n m"], column_of_row: Int[np.ndarray, "n"]
) -> tuple[int, list[int], Delimiter]:
    """Prefix and items that a mask would have if it is a layout's."""
    n, m = mask.shape
    causal = mask.sum(axis=1) == column_of_row + 1
    if causal.all() and n == m:
        return m, [], "none"
    # What a row that is not causal sees first is the whole prefix.
    leading = np.where(mask.all(axis=1), m, (~mask).argmax(axis=1))
    prefix = m - n if causal.all() else int(leading[~causal].min())
    sees_itself = mask[np.arange(n), column_of_row]
    behind = column_of_row >= prefix
    is_item = sees_itself[behind]
    first_own = column_of_row[behind] - _run_length(mask[behind], column_of_row[behind]) + 1
    begins = np.maximum(first_own, prefix)[is_item]
    _, item_lens = np.unique(begins, return_counts=True)
    if is_item.all():
        return prefix, item_lens.tolist(), "none"
    if not is_item[0]:
        return prefix, item_lens.tolist(), "hidden"
    return prefix - 1, item_lens.tolist(), "prefix_first"


def _run_length(
    mask: Bool[np.ndarray, "k m"], column_of_row: Int[np.ndarray, "k"]
) -> Int[np.ndarray, "k"]:
    """How many columns each row sees without a gap, up to its own."""
    columns = np.arange(mask.shape[1])
    gaps = np.where(~mask & (columns <= column_of_row[:, None]), columns, -1)
    return column_of_row - gaps.max(axis=1, initial=-1)
