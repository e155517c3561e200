"""The definition that every mask, layout and schedule is tested against: short, slow and O(T^2).

T rows, S columns, N items, as in docs/design.md. Nothing here is imported by the product.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def visible(seg, req, col, key_seg, key_req, pos=0, key_pos=0, window=None) -> np.ndarray:
    """bool [T, S]: who sees whom.

    Row i sees column j iff both belong to one request, j <= i, and seg(j) = 0 or seg(j) = seg(i) > 0; with a window
    only if pos(j) > pos(i) - window.
    """
    seg, req, col = (np.asarray(x)[:, None] for x in (seg, req, col))
    key_seg, key_req = np.asarray(key_seg)[None, :], np.asarray(key_req)[None, :]
    one_request = (req == key_req) & (req >= 0)
    not_later = np.arange(key_seg.size)[None, :] <= col
    prefix_or_own = (key_seg == 0) | ((key_seg == seg) & (seg > 0))
    seen = one_request & not_later & prefix_or_own
    if window is None:
        return seen
    return seen & (np.asarray(key_pos)[None, :] > np.asarray(pos)[:, None] - window)


class RequestSpec(NamedTuple):
    """One request of a pack, as `build_layout` takes it."""

    prefix_len: int
    item_lens: Sequence[int]
    delimiter: str = "none"
    cached_prefix: bool = False
    causal: bool = False
    # How many tokens each item shares with the item before it; empty: none does.
    shared_lens: Sequence[int] = ()


def tokens_of(spec: RequestSpec) -> list[tuple[int, int, str, int]]:
    """The request's columns as (segment, position, kind, item): kind is "q", "d" or "i"."""
    p = spec.prefix_len
    tokens = [(0, i, "q", -1) for i in range(p)]
    delimiter = (-2, p - 1, "d", -1)
    start = p
    if spec.delimiter == "prefix_first" and spec.item_lens:
        tokens.append((0, p, "q", -1))
        delimiter, start = (-2, p, "d", -1), p + 1
    elif spec.delimiter == "hidden" and spec.item_lens:
        tokens.append(delimiter)
    for k, length in enumerate(spec.item_lens):
        tokens += [(k + 1, start + i, "i", k) for i in range(length)]
        tokens += [delimiter] if spec.delimiter != "none" else []
    if spec.causal:
        tokens = [(0, i, kind, item) for i, (_, _, kind, item) in enumerate(tokens)]
    return tokens


class Definition(NamedTuple):
    """What a layout must be, by the definition. Names as in `isoprefill_csrc.Layout`."""

    segment_ids: np.ndarray
    request_ids: np.ndarray
    positions: np.ndarray
    row_columns: np.ndarray
    key_segment_ids: np.ndarray
    key_request_ids: np.ndarray
    column_rows: np.ndarray
    readout_rows: np.ndarray
    item_first_rows: np.ndarray
    item_lens: np.ndarray
    item_requests: np.ndarray
    item_context_rows: np.ndarray
    mask: np.ndarray


def define(
    requests: Sequence[RequestSpec],
    pad_to: int | None = None,
    pad_columns_to: int | None = None,
    window: int | None = None,
) -> Definition:
    """The layout and mask of a pack, token by token."""
    rows, columns, column_rows, items, prefix_last = [], [], [], [], []
    for r, spec in enumerate(requests):
        tokens = tokens_of(spec)
        first_row = len(rows)
        held = []  # for each item of the request the row of each of its tokens
        for kind_index, (segment, position, kind, item) in enumerate(tokens):
            columns.append((segment, r, position))
            column_rows.append(-1)
            if spec.cached_prefix and kind == "q":
                continue
            if kind == "i" and (kind_index == 0 or tokens[kind_index - 1][3] != item):
                items.append([r, len(rows), 0, first_row])
                held.append([])
            if kind == "i":
                items[-1][2] += 1
                token = len(held[-1])
                if spec.shared_lens and token < spec.shared_lens[item]:
                    column_rows[-1] = held[-2][token]
                    held[-1].append(column_rows[-1])
                    continue
                held[-1].append(len(rows))
            column_rows[-1] = len(rows)
            rows.append((segment, r, position, len(columns) - 1))
        prefix_columns = sum(kind == "q" for _, _, kind, _ in tokens)
        prefix_last.append(-1 if spec.cached_prefix else first_row + prefix_columns - 1)
    shared = [n for spec in requests for n in spec.shared_lens or [0] * len(spec.item_lens)]
    if pad_columns_to is None and len(rows) == len(columns):
        pad_columns_to = pad_to
    rows += [(-1, -1, 0, -1)] * ((pad_to or 0) - len(rows))
    columns += [(-1, -1, 0)] * ((pad_columns_to or 0) - len(columns))
    column_rows += [-1] * (len(columns) - len(column_rows))
    seg, req, pos, col = np.array(rows, np.int32).reshape(-1, 4).T
    key_seg, key_req, key_pos = np.array(columns, np.int32).reshape(-1, 3).T
    context = [
        (first - 1 if first > start else -1) if requests[r].causal else prefix_last[r]
        for r, first, _, start in items
    ]
    item_array = np.array(items, np.int32).reshape(-1, 4)
    return Definition(
        seg,
        req,
        pos,
        col,
        key_seg,
        key_req,
        np.array(column_rows, np.int32),
        item_array[:, 1] + item_array[:, 2] - np.array(shared, np.int32) - 1,
        item_array[:, 1],
        item_array[:, 2],
        item_array[:, 0],
        np.array(context, np.int32),
        visible(seg, req, col, key_seg, key_req, pos, key_pos, window),
    )
