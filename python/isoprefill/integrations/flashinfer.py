"""Converts between our layouts and FlashInfer's arguments, in NumPy: it imports no FlashInfer and needs no GPU.

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

from isoprefill.attention.layout import PackedLayout, RequestShape
from isoprefill.integers import flat_integers

PARAMETERS = (
    "prefix_len_ptr",
    "token_pos_in_items_ptr",
    "token_pos_in_items_len",
    "max_item_len_ptr",
)


def parameters(layout: PackedLayout) -> dict[str, Any]:
    """Returns the four multi-item parameters of a layout, by the names of `plan`'s arguments.

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
    """Returns the layout with hidden delimiters that FlashInfer's parameters describe.

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
    shapes = []
    for request, prefix_len in enumerate(prefix_lens.tolist()):
        item_lens = _item_lens(request, positions[request * row_len : (request + 1) * row_len])
        longest = item_lens.max(initial=0)
        if longest != max_item_lens[request]:
            raise ValueError(
                f"max_item_len_ptr[{request}] must be the longest item's {longest} tokens, got "
                f"{max_item_lens[request]}"
            )
        shapes.append(RequestShape(prefix_len, item_lens, "hidden", cached_prefix))
    return PackedLayout.of_requests(shapes)


def packed_mask(
    layout: PackedLayout,
) -> tuple[UInt8[np.ndarray, "bytes"], Int[np.ndarray, "R+1"]]:
    """Returns FlashInfer's packed custom mask of a layout, and the byte at which each request begins.

    A request of n query positions and m columns takes (n * m + 7) // 8 bytes: row-major, least significant bit first.
    """
    return layout.packed_bits(), layout.packed_bit_offsets()


def layout_from_packed_mask(
    bits: UInt8[np.ndarray, "bytes"], qo_lens: Iterable[int], kv_lens: Iterable[int]
) -> PackedLayout:
    """Returns the layout whose packed mask this is.

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
            f"qo_lens and kv_lens must hold one length for each request, got {rows.size} and {columns.size}"
        )
    bits = np.asarray(bits)
    if bits.dtype != np.uint8:
        raise ValueError(f"bits must be uint8, got {bits.dtype}")
    begin, shapes = 0, []
    for request, (n, m) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        if not 1 <= n <= m:
            raise ValueError(
                f"qo_lens[{request}] must be from 1 to kv_lens[{request}] = {m}, got {n}"
            )
        end = begin + (n * m + 7) // 8
        mask = np.unpackbits(bits[begin:end], bitorder="little")[: n * m]
        if mask.size != n * m:
            raise ValueError(f"bits ends within request {request}: {bits.size} bytes")
        shapes.append(_shape_of_mask(request, mask.reshape(n, m).astype(np.bool_)))
        begin = end
    if begin != bits.size:
        raise ValueError(f"bits must hold {begin} bytes for these lengths, got {bits.size}")
    return PackedLayout.of_requests(shapes)


def _item_lens(request: int, positions: Int[np.ndarray, "n"]) -> Int[np.ndarray, "N"]:
    """Returns the lengths between delimiters; zeros behind the last delimiter are padding."""
    if not positions.size:
        return positions
    where = f"token_pos_in_items_ptr of request {request}"
    if positions[0] != 0 or positions[-1] != 0:
        raise ValueError(f"{where} must begin and end with a delimiter's 0")
    places = np.arange(positions.size)
    since = places - np.maximum.accumulate(np.where(positions == 0, places, 0))
    wrong = np.flatnonzero(positions != since)
    if wrong.size:
        raise ValueError(
            f"{where} must count 0, 1, 2, … from each delimiter, got {positions[wrong[0]]} at {wrong[0]}"
        )
    lengths = np.trim_zeros(np.diff(np.flatnonzero(positions == 0)) - 1, "b")
    if not lengths.all():
        raise ValueError(f"{where} must not have an empty item, got one as item {lengths.argmin()}")
    return lengths


def _shape_of_mask(request: int, mask: Bool[np.ndarray, "n m"]) -> RequestShape:
    """Returns the shape whose layout has this mask."""
    shape = _likely_shape(mask)
    try:
        found = PackedLayout.of_requests([shape]).dense_mask()
    except ValueError as error:
        raise ValueError(
            f"the mask of request {request} does not belong to any layout: {error}"
        ) from error
    if not np.array_equal(found, mask):
        raise ValueError(f"the mask of request {request} does not belong to any layout")
    return shape


def _likely_shape(mask: Bool[np.ndarray, "n m"]) -> RequestShape:
    """Returns the shape that a mask would be of if it is a layout's."""
    n, m = mask.shape
    column = np.arange(m - n, m)  # of each row
    seen = mask.sum(axis=1)
    causal = seen == column + 1
    if causal.all():
        item_lens = np.array([n] if n < m else [], np.int64)
        return RequestShape(m - item_lens.sum(), item_lens, cached_prefix=n < m)
    # What a row that is not causal sees first is the whole prefix.
    leading = np.where(mask.all(axis=1), m, (~mask).argmax(axis=1))
    prefix = int(leading[~causal].min())
    behind = column >= prefix
    is_item = mask[np.arange(n), column][behind]
    begins = (column + 1 - (seen - prefix))[behind][is_item]  # of each row's own columns
    _, item_lens = np.unique(begins, return_counts=True)
    if is_item.all():
        return RequestShape(prefix, item_lens, "none", n < m)
    if not is_item[0]:
        return RequestShape(prefix, item_lens, "hidden", n < m)
    return RequestShape(prefix - 1, item_lens, "prefix_first", n < m)
