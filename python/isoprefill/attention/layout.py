"""The layout of a pack: the Python interface to the C++ mask op.

A pack of query 5 and items 3, 2, 4 has 14 rows. `PackedLayout.from_lengths(5, [3, 2, 4])` gives

    segment_ids   0 0 0 0 0  1 1 1  2 2  3 3 3 3
    positions     0 1 2 3 4  5 6 7  5 6  5 6 7 8
    readout_rows  7, 9, 13

docs/design.md draws its mask and explains delimiters and cached prefixes. Every array comes from the C++ op.
Letters: T rows, S columns, N items, R requests.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

import isoprefill_csrc
from isoprefill.attention.backends import choose_backend, find_backend
from isoprefill.integers import flat_integers
from isoprefill.modes import Backend, Delimiter, Isolation, check_choice
from isoprefill_pallas.heads import AttentionHeads

Ints = np.ndarray | jax.Array  # NumPy as made, traced inside a jitted function

# What a layout takes of the C++ op's and is traced.
_ARRAYS = (
    "segment_ids",
    "request_ids",
    "positions",
    "row_columns",
    "row_intervals",
    "key_segment_ids",
    "key_request_ids",
)


@dataclasses.dataclass(frozen=True, eq=False)
class RequestShape:
    """The lengths of one request and how it is packed."""

    prefix_len: int  # tokens of the query, without any delimiter
    item_lens: Int64[np.ndarray, "N"]
    delimiter: Delimiter = "none"
    cached_prefix: bool = False
    isolation: Isolation = "isolated"
    # How many tokens each item shares with the item before it, at its beginning; None: no item does.
    shared_lens: Int64[np.ndarray, "N"] | None = None

    def __post_init__(self) -> None:
        check_choice("isolation", self.isolation, Isolation)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(*_ARRAYS, "schedule"),
    meta_fields=("window", "scheduled_for"),
    drop_fields=("_requests", "_op"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class PackedLayout:
    """Which row and which column of a pack is what.

    A pytree: the arrays below and the schedule are traced under `jax.jit`. What only the host needs
    (`readout_rows` and the other tables of items, `dense_mask()`, …) is left behind when a layout is traced:
    pass such an array to the jitted function as an argument of its own.

    Attributes:
        segment_ids: 0 prefix, k item k (from 1, anew in each request), -1 padding, -2 delimiter.
        request_ids: index of the row's request, -1 on padding.
        positions: position of each row for the model, restarting at the end of the prefix for every item.
        row_columns: the column of each row, -1 on padding. With a cached prefix it differs from the row.
        row_intervals: prefix_begin, prefix_end, own_begin, own_end: the columns that each row sees, half open, as if
            there were no window.
        key_segment_ids, key_request_ids: the same per column.
        window: of these columns a row sees only the last so many: those less than `window` positions before its own.
        schedule: what a back end prepared, a pytree of its own; see `with_schedule`.
        scheduled_for: the back end that it is for.
    """

    segment_ids: Int32[Ints, "T"]
    request_ids: Int32[Ints, "T"]
    positions: Int32[Ints, "T"]
    row_columns: Int32[Ints, "T"]
    row_intervals: Int32[Ints, "4 T"]
    key_segment_ids: Int32[Ints, "S"]
    key_request_ids: Int32[Ints, "S"]
    window: int | None = None
    schedule: Any = None
    scheduled_for: str | None = None
    _requests: tuple[RequestShape, ...] = dataclasses.field(default=(), repr=False)
    _op: isoprefill_csrc.Layout | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def from_lengths(
        cls,
        prefix_len: int,
        item_lens: Iterable[int],
        delimiter: Delimiter = "none",
        cached_prefix: bool = False,
        pad_to: int | None = None,
        *,
        pad_columns_to: int | None = None,
        isolation: Isolation = "isolated",
        shared_lens: Iterable[int] | None = None,
    ) -> "PackedLayout":
        """Returns the layout of one request of a query of `prefix_len` tokens and items of the given lengths.

        Args:
            prefix_len: tokens of the query, at least 1, without any delimiter.
            item_lens: tokens of each item, each at least 1. No items at all is a prefix on its own.
            delimiter: see docs/design.md.
            cached_prefix: rows are only what follows the prefix; columns still hold it.
            pad_to: rows after padding.
            pad_columns_to: columns after padding; by default like the rows unless the prefix is cached.
            isolation: "causal" lets every row see all of the request before it.
            shared_lens: of each item how many of its first tokens have no rows, because the item before it begins with
                the same; the first item has none. `column_rows` then says what k and v must hold.

        Raises:
            ValueError: naming the argument, its value and the limit.
        """
        lengths = flat_integers("item_lens", item_lens)
        shared = None if shared_lens is None else flat_integers("shared_lens", shared_lens)
        shape = RequestShape(prefix_len, lengths, delimiter, cached_prefix, isolation, shared)
        return cls.of_requests([shape], pad_to, pad_columns_to=pad_columns_to)

    @classmethod
    def from_tokens(
        cls,
        tokens: Iterable[int],
        delimiter_id: int,
        delimiter: Literal["hidden", "prefix_first"] = "hidden",
        pad_to: int | None = None,
    ) -> "PackedLayout":
        """Returns the layout of the request that is packed as `query <d> item 1 <d> … item N <d>`.

        Raises:
            ValueError: if the query or an item is empty, or the last token is no delimiter; says where.
        """
        prefix_len, item_lens = isoprefill_csrc.request_from_tokens(
            tokens=flat_integers("tokens", tokens),
            delimiter_id=delimiter_id,
            delimiter=delimiter,
        )
        return cls.from_lengths(prefix_len, item_lens, delimiter, pad_to=pad_to)

    @classmethod
    def concat(
        cls,
        layouts: Sequence["PackedLayout"],
        pad_to: int | None = None,
        *,
        pad_columns_to: int | None = None,
    ) -> "PackedLayout":
        """Returns the layout of all requests in one pack, in the order given. Padding of the parts is dropped.

        Raises:
            ValueError: if there are no layouts, or their windows differ.
        """
        if not layouts:
            raise ValueError("layouts must hold at least one layout, got 0")
        for layout in layouts:
            layout._host("concat")  # refuses a traced one
        windows = {layout.window for layout in layouts}
        if len(windows) > 1:
            raise ValueError(f"layouts must have one window, got {sorted(windows, key=str)}")
        shapes = [shape for layout in layouts for shape in layout._requests]
        return cls.of_requests(shapes, pad_to, pad_columns_to=pad_columns_to, window=windows.pop())

    @classmethod
    def of_requests(
        cls,
        shapes: Sequence[RequestShape],
        pad_to: int | None = None,
        *,
        pad_columns_to: int | None = None,
        window: int | None = None,
    ) -> "PackedLayout":
        """Returns the layout of requests in one pack, in the order given.

        `from_lengths` explains the arguments, `with_window` the window.
        """
        op = isoprefill_csrc.build_layout(
            prefix_lens=[shape.prefix_len for shape in shapes],
            item_lens=[shape.item_lens for shape in shapes],
            delimiters=[shape.delimiter for shape in shapes],
            cached_prefix=[shape.cached_prefix for shape in shapes],
            causal=[shape.isolation == "causal" for shape in shapes],
            shared_lens=[
                [] if shape.shared_lens is None else shape.shared_lens.tolist() for shape in shapes
            ],
            pad_to=pad_to,
            pad_columns_to=pad_columns_to,
            window=window,
        )
        arrays = {name: getattr(op, name) for name in _ARRAYS}
        return cls(**arrays, window=op.window, _requests=tuple(shapes), _op=op)

    def with_window(self, window: int | None) -> "PackedLayout":
        """Returns the layout of the same pack for sliding-window attention, without a schedule.

        Args:
            window: a row sees only positions above its own minus `window`, its own included: as `sliding_window` of
                transformers. None is all that it would see.

        Raises:
            ValueError: if the window is not from 1 to 2^31 - 1.
        """
        self._host("with_window")
        return PackedLayout.of_requests(
            self._requests, self.num_rows, pad_columns_to=self.num_columns, window=window
        )

    def with_schedule(
        self, backend: Backend, *, heads: AttentionHeads | None = None, **options: Any
    ) -> "PackedLayout":
        """Returns this layout with the schedule that a back end needs, ready to be passed into a jitted function.

        Args:
            backend: for which. "cpu" and "dense" need no schedule; "auto" needs heads.
            heads: of the attention. "pallas" chooses its block sizes by them.
            options: the back end's own: block_q, block_kv and local_block of "xla"
                (`isoprefill.attention.xla.schedule`), chip and block_sizes of "pallas"
                (`isoprefill.attention.pallas.backend`).

        Raises:
            ValueError: naming the argument, its value and what is allowed.
        """
        return with_schedules([self], backend, heads, **options)[0]

    @property
    def num_rows(self) -> int:
        """Rows, padding included."""
        return self.segment_ids.shape[0]

    @property
    def num_columns(self) -> int:
        """Columns, padding included."""
        return self.key_segment_ids.shape[0]

    @property
    def readout_rows(self) -> Int32[np.ndarray, "N"]:
        """The last row of each item, whose logits score it; items in pack order."""
        return self._host("readout_rows").readout_rows

    @property
    def item_first_rows(self) -> Int32[np.ndarray, "N"]:
        """The first row of each item, after the tokens that it shares with the item before it."""
        return self._host("item_first_rows").item_first_rows

    @property
    def item_context_rows(self) -> Int32[np.ndarray, "N"]:
        """The row whose logits predict each item's first token; -1 where it is in the cached prefix."""
        return self._host("item_context_rows").item_context_rows

    @property
    def shares_tokens(self) -> bool:
        """Whether columns repeat others: `column_rows` then says which row each holds."""
        self._host("shares_tokens")
        return any(shape.shared_lens is not None for shape in self._requests)

    @property
    def column_rows(self) -> Int32[np.ndarray, "S"]:
        """The row whose key and value each column holds; -1 for a cached prefix and for padding."""
        return self._host("column_rows").column_rows

    @property
    def item_lens(self) -> Int32[np.ndarray, "N"]:
        """The tokens of each item."""
        return self._host("item_lens").item_lens

    @property
    def item_requests(self) -> Int32[np.ndarray, "N"]:
        """The index of each item's request."""
        return self._host("item_requests").item_requests

    def dense_mask(self) -> Bool[np.ndarray, "T S"]:
        """Returns the mask, True where a row sees a column. T * S bytes: for tests and small packs."""
        return self._host("dense_mask").dense_mask()

    def packed_bits(self) -> UInt8[np.ndarray, "bytes"]:
        """Returns FlashInfer's packed custom mask: for each request `packbits(mask.ravel(), bitorder="little")`."""
        return self._host("packed_bits").packed_bits()

    def packed_bit_offsets(self) -> Int64[np.ndarray, "R+1"]:
        """Returns where each request's bytes of `packed_bits()` begin and end."""
        return self._host("packed_bit_offsets").packed_bit_offsets()

    def flashinfer_params(self) -> dict[str, Any]:
        """Returns FlashInfer's four multi-item parameters, by the names of its arguments.

        Raises:
            ValueError: unless every delimiter is "hidden", if there is a window, or if an item is longer than 65,535
                tokens.
        """
        return dict(self._host("flashinfer_params").flashinfer_params())

    def _host(self, what: str) -> isoprefill_csrc.Layout:
        """Returns the C++ layout, for `what`."""
        if self._op is None:
            raise ValueError(
                f"{what} is not available on a traced PackedLayout: call it outside jax.jit and pass the "
                "result as an argument"
            )
        return self._op


def with_schedules(
    layouts: Sequence[PackedLayout],
    backend: Backend,
    heads: AttentionHeads | None = None,
    **options: Any,
) -> list[PackedLayout]:
    """Returns layouts of one size with schedules of one structure: one jitted function takes them side by side.

    `PackedLayout.with_schedule` explains the arguments.
    """
    found = find_backend(backend) if heads is None else choose_backend(backend, heads)
    options = {name: value for name, value in options.items() if value is not None}
    for name, value in options.items():
        if name not in found.schedule_options:
            raise ValueError(f"the {found.name!r} back end does not take {name}, got {value!r}")
    ops = [layout._host("with_schedule") for layout in layouts]
    schedules = found.schedule(ops, heads, **options) if found.schedule else [None] * len(ops)
    return [
        dataclasses.replace(layout, schedule=schedule, scheduled_for=found.name)
        for layout, schedule in zip(layouts, schedules, strict=True)
    ]
