"""The body of the TPU kernel: attention of packed requests, driven by a tile schedule.

Letters: T rows, S columns, Hq query heads, Hkv key and value heads, G = Hq / Hkv, D head_dim; bq = block_q,
bk = block_kv, R = G * bq.

The grid is (Hkv, steps). A step belongs to one Q tile of bq rows and brings bk columns of K and V into VMEM; the
schedule (csrc/tile_schedule.h) says which, and what to do with them. Rows of the Q tile, the accumulator and
the softmax anchors stay in VMEM over all steps of a tile:

    first step of a Q tile     windows: 128 rows x window_keys columns each, masked: those that end with the rows
                               themselves, or begin with them. They scale the queries, set the anchors and start the
                               accumulator
    every step                 anchors for rows that have no window and whose far columns start in this block
      full                       all rows x all columns of the block, no mask
      units                      groups of unit_q x unit_kv: whole ones without a mask, then the masked ones
    last step of a Q tile      output = accumulator / row sum, or 0 for padding

If the first step is full, it scales the queries, sets the anchors and starts the accumulator itself, because the
matrix unit is what everything else waits for there; windows then come with the last step. For a prefix of 2000 and
500 items of 20, bq = bk = 2048, one KV head runs six steps: one of units (the prefix's triangle) and five full ones,
each with 16 windows.

Orientation. Scores are S = K Q^T, [columns, R]: the G query heads of a KV head are stacked along the lanes, so
one product serves them all, and what is per row (mask bounds, anchor, row sum) is a lane vector that broadcasts
over sublanes for free. The output is accumulated transposed, O^T = V^T P, so that P is the stationary operand
and only D + 16 rows stream past it. The row sums come from rows of ones below V^T: they add up the same rounded
P that weighs V, which halves the error against summing before rounding, and the matmul unit has the time.

softmax.py explains anchors and the running maximum (online=True) that stands in for them.

What a row does not see never reaches it: masked scores are replaced (by a select, so NaN does not spread) before
the exponential; columns outside a full step's range take part as copies of a visible key with V = 0. Only NaN and
infinity in V can reach a row that gives them the weight 0. So V is cleared behind the last column that any row of a
window or masked unit sees: what is not finite reaches no window or unit whose rows all come before it.

This file is long because a grid step is one object, whose parts all read and write the same references in VMEM.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from isoprefill_csrc import (
    ANCHOR_KEYS,
    KEY_END_SHIFT,
    KEY_GRANULE,
    LANES,
    RowBound,
    StepField,
    StepFlag,
    TileField,
    UnitBits,
    UnitInterval,
    WindowField,
)
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.softmax import (
    HEADROOM,
    HIDDEN,
    certified,
    raise_top,
    scores,
    weigh,
    weights,
)

# Windows computed together: more overlap, fewer spill over the registers.
WINDOW_GROUP = 8

Ref = Any  # a Pallas reference; each has its shape beside it


def ones_rows(dtype: jnp.dtype) -> int:
    """Returns the rows of ones below V^T: one memory tile, so that V^T and they can be one operand."""
    return 32 // jnp.dtype(dtype).itemsize


def attend_step(*refs: Ref, **static) -> None:
    """Runs one step of the grid: refs and static arguments are the fields of Step, in their order."""
    Step(*refs, **static).run()


@dataclasses.dataclass(eq=False)
class Step:
    """One step of the grid. Its methods are the stages of the step, and what these share."""

    # In scalar memory, prefetched: int32.
    steps: Ref  # [8, n]
    units: Ref  # [m]
    tiles: Ref  # [K * (1 + 2 * bq / 128)]
    # Blocks in VMEM. Heads of whole lanes lie side by side; narrower ones come first.
    rows: Ref  # int32 [4, bq]: RowBound
    q: Ref  # [bq, G * D] or [G, bq, D]
    k: Ref  # [bk, D] or [1, bk, D]
    v: Ref  # as k
    local_k: Ref  # [local_keys, D] or [1, local_keys, D]: the columns of the tile's windows
    local_v: Ref  # as local_k
    out: Ref  # as q
    lse: Ref  # float32 [1, G, bq], base 2
    # Scratch in VMEM, kept over the steps of a tile.
    acc: Ref  # float32 [D + ones, R]
    top: Ref  # float32 [1, R]: anchor, or running maximum
    v_t: Ref  # [D + ones, bk]: V^T of a full step and ones, 0 outside the step's columns
    scaled_q: Ref  # [R, D]: the tile's queries x scale x log2(e), one head after another

    _: dataclasses.KW_ONLY
    sizes: BlockSizes
    groups: int  # G
    head_dim: int  # D
    log2_scale: float
    log2_cap: float | None
    online: bool

    def __post_init__(self) -> None:
        self.step = pl.program_id(1)
        self.flags = self.field(StepField.FLAGS)
        # Relative to the block.
        self.key_begin = self.field(StepField.KEY_RANGE) & ((1 << KEY_END_SHIFT) - 1)
        self.key_end = self.field(StepField.KEY_RANGE) >> KEY_END_SHIFT

    def run(self) -> None:
        """Runs the stages that the schedule asks for."""
        sizes, group = self.sizes, self.sizes.unit_group

        def loop(first: jax.Array, end: jax.Array, body: Callable[[jax.Array], None]) -> None:
            def once(i, _):
                body(i)
                return 0

            lax.fori_loop(0, lax.div(end - first, group), once, 0)

        has_windows = self.has(StepFlag.WINDOWS) if sizes.window_keys else False
        starts = (self.flags & (StepFlag.FIRST | StepFlag.FULL)) == StepFlag.FIRST
        pl.when(starts & jnp.logical_not(has_windows))(self.start_tile)
        if sizes.window_keys:
            pl.when(starts & has_windows)(functools.partial(self.windows, fresh=True))
        anchors, whole, masked, units_end = (
            self.field(name)
            for name in (
                StepField.ANCHORS,
                StepField.WHOLE_UNITS,
                StepField.MASKED_UNITS,
                StepField.UNITS_END,
            )
        )
        if not self.online:
            loop(anchors, whole, self.find_anchors)
        if sizes.full_keys:
            pl.when(self.has(StepFlag.FULL))(self.full_block)
            loop(whole, masked, lambda i: self.unit_group(whole + i * group, masked=False))
        loop(masked, units_end, lambda i: self.unit_group(masked + i * group, masked=True))
        if sizes.window_keys and sizes.full_keys:
            last = has_windows & jnp.logical_not(starts)
            pl.when(last)(functools.partial(self.windows, fresh=False))
        pl.when(self.has(StepFlag.LAST))(self.finish_tile)

    # ---- stages, in the order in which they run ----

    def start_tile(self) -> None:
        """Scales the queries and clears the accumulator."""
        self.scale_queries(0, self.sizes.block_q)
        self.acc[...] = jnp.zeros_like(self.acc)
        self.top[...] = jnp.full_like(self.top, HIDDEN if self.online else 0.0)

    def windows(self, *, fresh: bool) -> None:
        """Adds the near columns of every 128 rows. `fresh` ones are the first that the rows of the tile meet."""
        sizes = self.sizes
        local_start = self.tiles[self.first_tile_field() + TileField.LOCAL_START]
        s_of, v_t_of, lanes_of = [], [], []
        for row in range(0, sizes.block_q, LANES):
            window, window_end = self.window_of(row)
            key = pl.multiple_of(jnp.maximum(window, 0), KEY_GRANULE)
            queries = self.scale_queries(row, LANES) if fresh else self.queries(row, LANES)
            s = self.scores(self.columns(self.local_k, key, sizes.window_keys), queries)
            begin = self.bound(RowBound.NEAR_BEGIN, row, LANES)
            end = self.bound(RowBound.NEAR_END, row, LANES)
            length = jnp.where(window < 0, 0, end - begin)
            s_of.append(self.masked(s, local_start + key, begin, length))
            v = self.columns(self.local_v, key, sizes.window_keys)
            v_t_of.append(_transposed(_cleared(v, window_end - key)))
            lanes_of.append(self.lanes(row, LANES))
            if len(s_of) == WINDOW_GROUP or row + LANES == sizes.block_q:
                self.accumulate(s_of, v_t_of, lanes_of, LANES, fresh=fresh)
                s_of, v_t_of, lanes_of = [], [], []

    def find_anchors(self, group: jax.Array) -> None:
        """Sets the anchors of rows without a window, from the columns where what they see starts."""
        sizes, count = self.sizes, self.sizes.unit_q
        first = self.field(StepField.ANCHORS) + group * sizes.unit_group
        for bits in [self.units[first + i] for i in range(sizes.unit_group)]:
            row, key, interval = self.entry(bits)
            s = self.scores(self.columns(self.k, key, ANCHOR_KEYS), self.queries(row, count))
            begin = self.bound(RowBound.FAR_BEGIN, row, count)
            end = self.bound(RowBound.FAR_END, row, count)
            column = self.field(StepField.KEY_START) + key
            # Rows that an earlier step has anchored keep their anchor, though they may see these columns too.
            first_new = jnp.maximum(column, self.field(StepField.KEY_START) + self.key_begin)
            starts = _within(begin, first_new, column + ANCHOR_KEYS - first_new)
            length = jnp.where(starts & (interval != UnitInterval.NOTHING), end - begin, 0)
            if sizes.window_keys:
                near_end = self.bound(RowBound.NEAR_END, row, count)
                near_begin = self.bound(RowBound.NEAR_BEGIN, row, count)
                # The first 128 rows of a row block have a window if any of its rows have.
                window, _ = self.window_of(row)
                anchored = jnp.where(window < 0, 0, near_end - near_begin)
                length = jnp.where(anchored > 0, 0, length)
            best = self.masked(s, column, begin, length).max(axis=0, keepdims=True)
            lanes = self.lanes(row, count)
            anchor = jnp.where(best <= HIDDEN, _gather(self.top, lanes), best + HEADROOM)
            for g, at in enumerate(lanes):
                self.top[:, at] = anchor[:, g * count : (g + 1) * count]

    def full_block(self) -> None:
        """Adds the columns of the block to every row, without a mask."""
        sizes = self.sizes
        self.transpose_values()
        # Columns outside the range get the first key inside it, which every row sees: whatever their weights
        # come to is in range if the row is, and V^T is 0 there.
        aligned = pl.multiple_of(self.key_begin & -KEY_GRANULE, KEY_GRANULE)
        some = self.columns(self.k, aligned, KEY_GRANULE)
        only = jnp.where(
            _iota(some.shape, 0) == self.key_begin - aligned, some.astype(jnp.float32), 0.0
        )
        visible_key = only.sum(axis=0, keepdims=True).astype(some.dtype)  # [1, D]
        # A full step starts its tile itself, here, where the matmul unit is what everything else waits for.
        first = self.has(StepFlag.FIRST)
        queries = self.scale_queries(0, sizes.block_q)
        acc, top = jnp.where(first, 0.0, self.acc[...]), self.top[...]
        for start in range(0, sizes.block_kv, sizes.chunk_kv):
            keys = self.columns(self.k, start, sizes.chunk_kv)
            column = start + _iota(keys.shape, 0)
            keys = jnp.where(
                _within(column, self.key_begin, self.key_end - self.key_begin), keys, visible_key
            )
            s = self.scores(keys, queries)
            v_t = self.v_t[:, start : start + sizes.chunk_kv]
            if self.online:
                top = jnp.where(first, HIDDEN, top) if start == 0 else top
                top, subtract, factor = raise_top(s, top)
                acc = acc * factor + weigh(v_t, weights(s, subtract, v_t.dtype))
            else:
                if start == 0:
                    anchor = s[:ANCHOR_KEYS].max(axis=0, keepdims=True) + HEADROOM
                    top = jnp.where(first, anchor, top)
                acc = acc + weigh(v_t, weights(s, top, v_t.dtype))
            self.acc[...] = acc
            acc = self.acc[...]
        self.top[...] = top

    def unit_group(self, first: jax.Array, *, masked: bool) -> None:
        """Adds a group of units: all scores, then all weights, then all products, so that they overlap."""
        sizes = self.sizes
        s_of, v_t_of, lanes_of = [], [], []
        for bits in [self.units[first + i] for i in range(sizes.unit_group)]:
            row, key, interval = self.entry(bits)
            keys = self.columns(self.k, key, sizes.unit_kv)
            s = self.scores(keys, self.queries(row, sizes.unit_q))
            v = self.columns(self.v, key, sizes.unit_kv)
            if masked:
                s = self.mask_unit(s, row, key, interval)
                v = _cleared(v, lax.shift_right_logical(bits, jnp.int32(UnitBits.LENGTH_SHIFT)))
            s_of.append(s)
            v_t_of.append(_transposed(v))
            lanes_of.append(self.lanes(row, sizes.unit_q))
        self.accumulate(s_of, v_t_of, lanes_of, sizes.unit_q)

    def finish_tile(self) -> None:
        """Writes the output and the log-sum-exp of the tile's rows."""
        d, bq = self.head_dim, self.sizes.block_q
        total = self.acc[d : d + 1, :]  # [1, R]
        far = self.bound(RowBound.FAR_END, 0, bq) - self.bound(RowBound.FAR_BEGIN, 0, bq)
        near = self.bound(RowBound.NEAR_END, 0, bq) - self.bound(RowBound.NEAR_BEGIN, 0, bq)
        seen = self.per_head(jnp.maximum(far, near))
        lse = self.top[...] + jnp.log2(total)
        if not self.online:
            lse = jnp.where(certified(total), lse, jnp.nan)
        lse = jnp.where(seen > 0, lse, -jnp.inf)
        inverse = jnp.where(seen > 0, 1.0 / total, 0.0)
        for g in range(self.groups):
            at = slice(g * bq, (g + 1) * bq)
            # Padding rows may have met anything; 0 * NaN would be NaN.
            o_t = jnp.where(seen[:, at] > 0, self.acc[:d, at] * inverse[:, at], 0.0)  # [D, bq]
            o = o_t.astype(self.out.dtype).T
            if len(self.out.shape) == 3:
                self.out[g] = o
            else:
                self.out[:, g * d : (g + 1) * d] = o
            self.lse[0, g : g + 1, :] = lse[:, at]

    # ---- what the stages share: reading the schedule ----

    def has(self, flag: StepFlag) -> jax.Array:
        return (self.flags & flag) == flag

    def field(self, name: StepField) -> jax.Array:
        return self.steps[name, self.step]

    def first_tile_field(self) -> jax.Array:
        """Returns where the fields of the step's Q tile begin in `tiles`."""
        windows = self.sizes.block_q // LANES * len(WindowField)
        return self.field(StepField.Q_TILE) * (TileField.WINDOWS + windows)

    def window_of(self, row: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        """Returns where the window of 128 rows starts in the local block, and what they see of it ends.

        Without a window the start is negative, and the end 0.
        """
        group = row // LANES if isinstance(row, int) else lax.div(row, LANES)
        first = self.first_tile_field() + TileField.WINDOWS + group * len(WindowField)
        return self.tiles[first + WindowField.START], self.tiles[first + WindowField.END]

    def entry(self, bits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns of an entry of `units`: first row in the tile, first column in the block, UnitInterval."""
        row = pl.multiple_of((bits & UnitBits.ROW_BLOCK_MASK) * self.sizes.unit_q, LANES)
        granule = (bits >> UnitBits.KEY_SHIFT) & UnitBits.KEY_MASK
        key = pl.multiple_of(granule * KEY_GRANULE, KEY_GRANULE)
        return row, key, (bits >> UnitBits.INTERVAL_SHIFT) & UnitBits.INTERVAL_MASK

    def bound(self, which: RowBound, first: jax.Array | int, count: int) -> jax.Array:
        """Returns int32 [1, count]: an interval bound of `count` rows."""
        return self.rows[which : which + 1, pl.ds(first, count)]

    # ---- what the stages share: queries, scores and the accumulator ----

    def lanes(self, first: jax.Array | int, count: int) -> list:
        """Returns where `count` rows lie in [.., R], one slice per query head."""
        if isinstance(first, int):
            return [pl.ds(g * self.sizes.block_q + first, count) for g in range(self.groups)]
        at = [pl.multiple_of(g * self.sizes.block_q + first, LANES) for g in range(self.groups)]
        return [pl.ds(start, count) for start in at]

    def per_head(self, x: jax.Array) -> jax.Array:
        """Returns [1, G * count]: what is per row in [1, count], for every query head."""
        return jnp.concatenate([x] * self.groups, axis=1)

    def columns(self, ref: Ref, first: jax.Array | int, count: int) -> jax.Array:
        """Returns [count, D] of a block of keys or values."""
        if len(ref.shape) == 3:
            return ref[0, pl.ds(first, count), :]
        return ref[pl.ds(first, count), :]

    def queries(self, first: jax.Array | int, count: int) -> jax.Array:
        """Returns [G * count, D]: `count` scaled rows of every query head, one head after another."""
        return jnp.concatenate([self.scaled_q[at, :] for at in self.lanes(first, count)], axis=0)

    def scale_queries(self, first: int, count: int) -> jax.Array:
        """Scales rows of every query head and keeps them; returns them as `queries` does."""
        d = self.head_dim
        heads = []
        for g, lanes in enumerate(self.lanes(first, count)):
            at = slice(first, first + count)
            q = self.q[g, at, :] if len(self.q.shape) == 3 else self.q[at, g * d : (g + 1) * d]
            scaled = q.astype(jnp.float32) * self.log2_scale
            heads.append(scaled.astype(self.scaled_q.dtype))
            self.scaled_q[lanes, :] = heads[-1]
        return jnp.concatenate(heads, axis=0)

    def scores(self, keys: jax.Array, queries: jax.Array) -> jax.Array:
        """Returns [columns, rows] of keys [columns, D] and scaled queries [rows, D]."""
        return scores(keys, queries, self.log2_cap)

    def masked(
        self, s: jax.Array, column: jax.Array, begin: jax.Array, length: jax.Array
    ) -> jax.Array:
        """Hides scores [columns, G * count], from `column` on, outside `length` columns from `begin`, [1, count]."""
        index = _iota(s.shape, 0)
        seen = _within(index, self.per_head(begin - column), self.per_head(length))
        return jnp.where(seen, s, HIDDEN)

    def mask_unit(
        self, s: jax.Array, row: jax.Array, key: jax.Array, interval: jax.Array
    ) -> jax.Array:
        """Hides what the rows of a unit do not see, in scores [unit_kv, G * unit_q]."""
        far = interval == UnitInterval.FAR
        count = self.sizes.unit_q
        begin, end = (
            jnp.where(far, self.bound(of_far, row, count), self.bound(of_near, row, count))
            for of_far, of_near in (
                (RowBound.FAR_BEGIN, RowBound.NEAR_BEGIN),
                (RowBound.FAR_END, RowBound.NEAR_END),
            )
        )
        # What an overlapping block before this one has covered.
        begin = jnp.maximum(begin, self.field(StepField.KEY_START) + self.key_begin)
        length = jnp.where(interval == UnitInterval.NOTHING, 0, jnp.maximum(end - begin, 0))
        return self.masked(s, self.field(StepField.KEY_START) + key, begin, length)

    def transpose_values(self) -> None:
        """Writes V^T and ones of the whole block, with zeros outside the step's columns."""
        d, block = self.head_dim, self.sizes.block_kv
        v = self.columns(self.v, 0, block)
        length = self.key_end - self.key_begin
        v = jnp.where(_within(_iota(v.shape, 0), self.key_begin, length), v, jnp.zeros_like(v))
        self.v_t[:d, :] = v.T
        ones = jnp.ones((self.v_t.shape[0] - d, block), v.dtype)
        inside = _within(_iota(ones.shape, 1), self.key_begin, length)
        self.v_t[d:, :] = jnp.where(inside, ones, jnp.zeros_like(ones))

    def accumulate(
        self, s_of: list, v_t_of: list, lanes_of: list, count: int, *, fresh: bool = False
    ) -> None:
        """Adds independent pieces to the accumulators of their rows.

        Args:
            s_of: of each piece, scores [columns, G * count].
            v_t_of: of each, [D + ones, columns].
            lanes_of: of each, where its rows lie.
            count: rows of a piece.
            fresh: the pieces are the first of their rows: they set anchors and accumulators.
        """
        subtract: list[jax.Array] = []  # [1, G * count]
        factors: list[jax.Array | None] = [None] * len(s_of)
        for i, (s, at) in enumerate(zip(s_of, lanes_of, strict=True)):
            if fresh:
                best = s.max(axis=0, keepdims=True)
                anchor = best if self.online else best + HEADROOM
                # A row that has seen nothing yet: subtract 0, so that its masked scores weigh 0 and not 1.
                subtract.append(jnp.where(best <= HIDDEN, 0.0, anchor))
                new = anchor if self.online else subtract[-1]
            elif self.online:
                new, raised, factors[i] = raise_top(s, _gather(self.top, at))
                subtract.append(raised)
            else:
                subtract.append(_gather(self.top, at))
                continue
            for g, lane in enumerate(at):
                self.top[:, lane] = new[:, g * count : (g + 1) * count]
        dtype = self.v.dtype
        weights_of = [weights(s, top, dtype) for s, top in zip(s_of, subtract, strict=True)]
        products = [weigh(v_t, p) for v_t, p in zip(v_t_of, weights_of, strict=True)]
        for product, factor, at in zip(products, factors, lanes_of, strict=True):
            for g, lane in enumerate(at):
                here = product[:, g * count : (g + 1) * count]  # [D + ones, count]
                if not fresh:
                    old = self.acc[:, lane]
                    if factor is not None:
                        old = old * factor[:, g * count : (g + 1) * count]
                    here = old + here
                self.acc[:, lane] = here


def _within(index: jax.Array, begin: jax.Array, length: jax.Array) -> jax.Array:
    """Tells where begin <= index < begin + length, in one comparison."""
    return (index - begin).astype(jnp.uint32) < length.astype(jnp.uint32)


def _iota(shape: tuple[int, ...], dimension: int) -> jax.Array:
    return lax.broadcasted_iota(jnp.int32, shape, dimension)


def _gather(ref: Ref, lanes: list) -> jax.Array:
    """Returns [.., G * count] of a ref [.., R]."""
    return jnp.concatenate([ref[:, at] for at in lanes], axis=1)


def _cleared(v: jax.Array, length: jax.Array) -> jax.Array:
    """Returns v [columns, D] with zeros behind the first `length` columns."""
    # What nobody sees may hold anything, and 0 * NaN would be NaN.
    return jnp.where(_iota(v.shape, 0) < length, v, jnp.zeros_like(v))


def _transposed(v: jax.Array) -> jax.Array:
    """Returns [D + ones, columns]: V^T and rows of ones, from v [columns, D]."""
    ones = jnp.ones((ones_rows(v.dtype), v.shape[0]), v.dtype)
    return jnp.concatenate([v.T, ones], axis=0)
