"""The layout of a pack: the Python face of the C++ mask op.

A pack of query 5 and items 3, 2, 4 has 14 rows. `PackedLayout.from_lengths(5, [3, 2, 4])` gives

    segment_ids   0 0 0 0 0  1 1 1  2 2  3 3 3 3
    positions     0 1 2 3 4  5 6 7  5 6  5 6 7 8
    readout_rows  7, 9, 13

docs/design.md draws its mask and explains delimiters and cached prefixes. Every array comes from the C++ op.
Letters: T rows, S columns, N items, R requests.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

import isoprefill_csrc
from isoprefill.integers import flat_integers
from isoprefill.modes import Delimiter, Isolation
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.heads import Heads
from isoprefill_pallas.schedule import KernelSchedule

Ints = np.ndarray | jax.Array  # NumPy as made, traced inside a jitted function

# Tiles of the XLA back end, rows x columns. A request gets the first square one that holds its prefix; the flat one if
# it has so few rows, because its prefix is cached; else the last. So the order of its sums follows from its own
# lengths alone: XLA's matmul was seen to give other bits for other numbers of rows. Large tiles are faster where they
# are full: one layer of 2000 + 500 x 20 with SmolLM2's heads took 0.64 s with tiles of 512 x 512, 0.72 s with
# 256 x 256 and 0.80 s with 512 x 1024, on two shared cores in one run.
XLA_TILES: tuple[tuple[int, int], ...] = ((64, 64), (256, 256), (64, 512), (512, 512))
# An item is one local block, of which XLA sums 64 and 256 columns in the same order (16 not). Only items of more than
# 64 tokens can be cut differently beside other items, which costs rounding of float32.
XLA_LOCAL_BLOCKS = (64, 256)  # few, because each is a compilation of its own
OWN_TILE = 1  # a kind of tile, csrc/aligned_schedule.h
CAPACITY_STEP = 64


@dataclasses.dataclass(frozen=True, eq=False)
class RequestShape:
    """The lengths of one request and how it is packed."""

    prefix_len: int  # tokens of the query, without any delimiter
    item_lens: Int64[np.ndarray, "N"]
    delimiter: Delimiter = "none"
    cached_prefix: bool = False
    isolation: Isolation = "isolated"

    def __post_init__(self) -> None:
        if self.isolation not in get_args(Isolation):
            raise ValueError(
                f"isolation must be one of {get_args(Isolation)}, got {self.isolation!r}"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Strips:
    """The steps of the requests that have tiles of one size."""

    steps: Int32[Ints, "5 steps"]
    num_steps: Int32[Ints, ""]
    block_q: int = dataclasses.field(metadata={"static": True})
    block_kv: int = dataclasses.field(metadata={"static": True})

    @property
    def pairs(self) -> int:
        """Pairs of rows and columns that are computed."""
        return int(self.num_steps) * self.block_q * self.block_kv


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AlignedSchedule:
    """What the XLA back end visits; csrc/aligned_schedule.h explains the arrays.

    The arrays are padded to a capacity; how much of them counts is traced, so that two packs whose capacities
    are equal share one compilation.
    """

    strips: tuple[Strips, ...]  # one for each size of tile
    strip_own_end: Int32[Ints, "T"]
    local_blocks: Int32[Ints, "3 blocks"]
    num_local_blocks: Int32[Ints, ""]
    row_slot: Int32[Ints, "T"]
    local_block: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class PackedLayout:
    """Which row and which column of a pack is what.

    A pytree: the arrays below are traced under `jax.jit`, block sizes are static. What only the host needs
    (`readout_rows` and the other tables of items, `dense_mask()`, …) is left behind when a layout is traced:
    pass such an array to the jitted function as an argument of its own.

    Attributes:
        segment_ids: 0 prefix, k item k (from 1, anew in each request), -1 padding, -2 delimiter.
        request_ids: index of the row's request, -1 on padding.
        positions: position of each row for the model, restarting at the end of the prefix for every item.
        row_columns: the column of each row, -1 on padding. With a cached prefix it differs from the row.
        row_intervals: prefix_begin, prefix_end, own_begin, own_end: the columns that each row sees, half open.
        key_segment_ids, key_request_ids: the same per column.
        aligned: schedule of the XLA back end, or None; see `with_schedule`.
        kernel: schedule of the TPU kernel, or None.
    """

    segment_ids: Int32[Ints, "T"]
    request_ids: Int32[Ints, "T"]
    positions: Int32[Ints, "T"]
    row_columns: Int32[Ints, "T"]
    row_intervals: Int32[Ints, "4 T"]
    key_segment_ids: Int32[Ints, "S"]
    key_request_ids: Int32[Ints, "S"]
    aligned: AlignedSchedule | None = None
    kernel: KernelSchedule | None = None
    requests: tuple[RequestShape, ...] | None = None  # None once traced
    _op: Any = dataclasses.field(
        default=None, repr=False
    )  # isoprefill_csrc.Layout, None once traced

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
    ) -> "PackedLayout":
        """One request of a query of `prefix_len` tokens and items of the given lengths.

        Args:
            prefix_len: tokens of the query, at least 1, without any delimiter.
            item_lens: tokens of each item, each at least 1. No items at all is a prefix on its own.
            delimiter: see docs/design.md.
            cached_prefix: rows are only what follows the prefix; columns still hold it.
            pad_to: rows after padding.
            pad_columns_to: columns after padding; by default like the rows unless the prefix is cached.
            isolation: "causal" lets every row see all of the request before it.

        Raises:
            ValueError: naming the argument, its value and the limit.
        """
        lengths = flat_integers("item_lens", item_lens)
        shape = RequestShape(prefix_len, lengths, delimiter, cached_prefix, isolation)
        return cls._build((shape,), pad_to, pad_columns_to)

    @classmethod
    def from_tokens(
        cls,
        tokens: Iterable[int],
        delimiter_id: int,
        delimiter: Literal["hidden", "prefix_first"] = "hidden",
        pad_to: int | None = None,
    ) -> "PackedLayout":
        """The request that is packed as `query <d> item 1 <d> … item N <d>`.

        Raises:
            ValueError: if the query or an item is empty, or the last token is no delimiter; says where.
        """
        prefix_len, item_lens = isoprefill_csrc.request_from_tokens(
            tokens=_int32("tokens", tokens),
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
        """Several requests in one pack, in the order given. Padding of the parts is dropped."""
        if not layouts:
            raise ValueError("layouts must hold at least one layout, got 0")
        shapes = tuple(shape for layout in layouts for shape in layout._host("concat")[0])
        return cls._build(shapes, pad_to, pad_columns_to)

    @classmethod
    def _build(
        cls, shapes: tuple[RequestShape, ...], pad_to: int | None, pad_columns_to: int | None
    ) -> "PackedLayout":
        op = isoprefill_csrc.build_layout(
            prefix_lens=[shape.prefix_len for shape in shapes],
            item_lens=[shape.item_lens for shape in shapes],
            delimiters=[shape.delimiter for shape in shapes],
            cached_prefix=[shape.cached_prefix for shape in shapes],
            causal=[shape.isolation == "causal" for shape in shapes],
            pad_to=pad_to,
            pad_columns_to=pad_columns_to,
        )
        return cls(
            segment_ids=op.segment_ids,
            request_ids=op.request_ids,
            positions=op.positions,
            row_columns=op.row_columns,
            row_intervals=op.row_intervals,
            key_segment_ids=op.key_segment_ids,
            key_request_ids=op.key_request_ids,
            requests=shapes,
            _op=op,
        )

    def with_schedule(
        self,
        backend: Literal["xla", "pallas"],
        *,
        block_q: int | None = None,
        block_kv: int | None = None,
        local_block: int | None = None,
        heads: Heads | None = None,
        chip: str | None = None,
        block_sizes: BlockSizes | None = None,
    ) -> "PackedLayout":
        """This layout with the schedule that a back end needs, ready to be passed into a jitted function.

        Args:
            backend: "xla" or "pallas". The dense back end needs no schedule.
            block_q, block_kv: "xla": rows and columns of a tile; by default as many as the request is large, up to 512.
            local_block: "xla": rows of a local block; by default the one with the least work for these items.
            heads: "pallas": of the attention; they choose the block sizes.
            chip: "pallas": the TPU whose tuned block sizes are taken, such as "v6e"; by default the one that is there.
            block_sizes: "pallas": instead of `heads` and `chip`.

        Raises:
            ValueError: naming the argument, its value and what is allowed.
        """
        xla = {"block_q": block_q, "block_kv": block_kv, "local_block": local_block}
        pallas = {"heads": heads, "chip": chip, "block_sizes": block_sizes}
        if backend not in ("xla", "pallas"):
            raise ValueError(f"backend must be 'xla' or 'pallas', got {backend!r}")
        for name, value in (pallas if backend == "xla" else xla).items():
            if value is not None:
                raise ValueError(f"{name} is not for the {backend!r} back end, got {value!r}")
        if backend == "xla":
            aligned = self._aligned_schedule(block_q, block_kv, local_block)
            return dataclasses.replace(self, aligned=aligned)
        op = self._host("with_schedule")[1]
        if heads is None and block_sizes is None:
            raise ValueError("the schedule of 'pallas' needs heads or block_sizes, got neither")
        kernel = KernelSchedule.of(op, heads, chip=chip, sizes=block_sizes)
        return dataclasses.replace(self, kernel=kernel)

    def _aligned_schedule(
        self, block_q: int | None, block_kv: int | None, local_block: int | None
    ) -> AlignedSchedule:
        op = self._host("with_schedule")[1]
        tiles = XLA_TILES
        if block_q is not None or block_kv is not None:
            tiles = ((block_q or XLA_TILES[-1][0], block_kv or XLA_TILES[-1][1]),)
        largest_q, largest_kv = tiles[-1]
        if local_block is None:
            local_block = op.choose_local_block(
                candidates=[b for b in XLA_LOCAL_BLOCKS if b <= largest_q] or [largest_q],
                block_q=largest_q,
                block_kv=largest_kv,
            )
        tile_of = _tile_of_requests(op, tiles)
        usual = max(
            self.num_rows // 8, -(-self.num_rows // largest_q) * -(-self.num_columns // largest_kv)
        )
        largest = op.aligned_schedule(
            block_q=largest_q, block_kv=largest_kv, local_block=local_block
        )
        strips = []
        for index, (rows, columns) in enumerate(tiles):
            schedule = largest
            if index < len(tiles) - 1:
                if not (tile_of == index).any():  # small tiles of a long prefix are many
                    strips.append(_strips(largest.tile_visits[:, :0], usual, rows, columns))
                    continue
                # Only steps over an item's own columns depend on the local block, and these are of the last tiles.
                schedule = op.aligned_schedule(
                    block_q=rows, block_kv=columns, local_block=min(local_block, rows)
                )
            first_row, *_, kind = schedule.tile_visits
            of_tile = np.where(kind == OWN_TILE, len(tiles) - 1, tile_of[op.request_ids[first_row]])
            strips.append(_strips(schedule.tile_visits[:, of_tile == index], usual, rows, columns))
        return AlignedSchedule(
            strips=tuple(strips),
            strip_own_end=largest.tile_own_end,
            local_blocks=_with_capacity(largest.local_blocks, 2 * self.num_rows // local_block),
            num_local_blocks=np.asarray(largest.local_blocks.shape[1], np.int32),
            row_slot=largest.row_slot,
            local_block=local_block,
        )

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
        return self._host("readout_rows")[1].readout_rows

    @property
    def item_first_rows(self) -> Int32[np.ndarray, "N"]:
        """The first row of each item."""
        return self._host("item_first_rows")[1].item_first_rows

    @property
    def item_context_rows(self) -> Int32[np.ndarray, "N"]:
        """The row whose logits predict each item's first token; -1 where it is in the cached prefix."""
        return self._host("item_context_rows")[1].item_context_rows

    @property
    def item_lens(self) -> Int32[np.ndarray, "N"]:
        """The tokens of each item."""
        return self._host("item_lens")[1].item_lens

    @property
    def item_requests(self) -> Int32[np.ndarray, "N"]:
        """The index of each item's request."""
        return self._host("item_requests")[1].item_requests

    def dense_mask(self) -> Bool[np.ndarray, "T S"]:
        """True where a row sees a column. T * S bytes: for tests and small packs."""
        return self._host("dense_mask")[1].dense_mask()

    def packed_bits(self) -> UInt8[np.ndarray, "bytes"]:
        """FlashInfer's packed custom mask: for each request `packbits(mask.ravel(), bitorder="little")`."""
        return self._host("packed_bits")[1].packed_bits()

    def packed_bit_offsets(self) -> Int64[np.ndarray, "R+1"]:
        """Where each request's bytes of `packed_bits()` begin and end."""
        return self._host("packed_bit_offsets")[1].packed_bit_offsets()

    def flashinfer_params(self) -> dict[str, Any]:
        """FlashInfer's four multi-item parameters, by the names of its arguments.

        Raises:
            ValueError: unless every delimiter is "hidden", or if an item is longer than 65,535 tokens.
        """
        return self._host("flashinfer_params")[1].flashinfer_params()

    def tile_schedule(
        self,
        block_q: int,
        block_kv: int,
        *,
        unit_q: int = 256,
        unit_kv: int = 256,
        unit_group: int = 4,
        window_keys: int = 160,
        full_keys: int | None = None,
    ) -> isoprefill_csrc.TileSchedule:
        """Which KV tiles each tile of rows visits, as the TPU kernel does; csrc/tile_schedule.h explains the arrays.

        Args:
            block_q, block_kv: rows and columns of a tile.
            unit_q, unit_kv, unit_group, window_keys, full_keys: see `isoprefill_pallas.block_sizes.BlockSizes`.

        Raises:
            ValueError: naming the size, its value and the limit.
        """
        return self._host("tile_schedule")[1].tile_schedule(
            block_q=block_q,
            block_kv=block_kv,
            unit_q=unit_q,
            unit_kv=unit_kv,
            unit_group=unit_group,
            window_keys=window_keys,
            full_keys=full_keys,
        )

    def _host(self, what: str) -> tuple[tuple[RequestShape, ...], Any]:
        if self.requests is None or self._op is None:
            raise ValueError(
                f"{what} is not available on a traced PackedLayout: call it outside jax.jit and pass the "
                "result as an argument"
            )
        return self.requests, self._op

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        traced = (
            self.segment_ids,
            self.request_ids,
            self.positions,
            self.row_columns,
            self.row_intervals,
            self.key_segment_ids,
            self.key_request_ids,
            self.aligned,
            self.kernel,
        )
        return traced, None

    @classmethod
    def tree_unflatten(cls, _: None, traced: tuple[Any, ...]) -> "PackedLayout":
        return cls(*traced)


def bucket_size(length: int) -> int:
    """The padded length that `length` tokens get: at most 1/8 more, at least 64, few different values.

    Multiples of 64 up to 512, then eight sizes for each doubling, so that a service compiles a bounded number
    of programs. 64 is also where XLA's CPU matmul starts to treat every row alike.
    """
    step = max(64, 1 << max(0, length.bit_length() - 4))
    return -(-length // step) * step


def _int32(name: str, values: Iterable[int]) -> Int32[np.ndarray, "n"]:
    array = flat_integers(name, values)
    outside = np.flatnonzero(array != array.astype(np.int32))
    if outside.size:
        raise ValueError(f"{name}[{outside[0]}] must fit in int32, got {array[outside[0]]}")
    return array.astype(np.int32)


def _tile_of_requests(op: Any, tiles: Sequence[tuple[int, int]]) -> Int32[np.ndarray, "R"]:
    """Which of the tiles each request gets."""
    rows = np.diff(op.request_rows)
    columns = np.zeros_like(rows)  # of the prefix
    seen = op.request_ids >= 0
    np.maximum.at(columns, op.request_ids[seen], (op.row_intervals[1] - op.row_intervals[0])[seen])
    tile = np.full_like(rows, len(tiles) - 1)
    for index in reversed(range(len(tiles) - 1)):
        most_rows, most_columns = tiles[index]
        suits = columns <= most_columns if most_rows == most_columns else rows <= most_rows
        tile[suits] = index
    return tile


def _strips(steps: Int32[np.ndarray, "5 n"], usual: int, block_q: int, block_kv: int) -> Strips:
    """Steps with a capacity."""
    count = np.asarray(steps.shape[1], np.int32)
    return Strips(_with_capacity(steps, usual), count, block_q=block_q, block_kv=block_kv)


def next_power_of_two(at_least: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << max(0, at_least - 1).bit_length()


def _with_capacity(
    steps: Int32[np.ndarray, "fields n"], usual: int
) -> Int32[np.ndarray, "fields capacity"]:
    """Pads steps to what packs of this size usually need, and to a power of two if these need more.

    Packs of one size then share a compilation. Multiples of CAPACITY_STEP.
    """
    capacity = max(1, -(-usual // CAPACITY_STEP)) * CAPACITY_STEP
    if steps.shape[1] > capacity:
        capacity = next_power_of_two(steps.shape[1])
    return np.pad(steps, ((0, 0), (0, capacity - steps.shape[1])))
