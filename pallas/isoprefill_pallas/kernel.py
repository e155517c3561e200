"""The TPU kernel: attention of packed requests, driven by a tile schedule.

Letters: T rows, S columns, Hq query heads, Hkv key and value heads, G = Hq / Hkv, D head_dim; bq = block_q,
bk = block_kv, R = G * bq.

The grid is (Hkv, steps). A step belongs to one Q tile of bq rows and brings bk columns of K and V into VMEM; the
schedule (csrc/tile_schedule.h) says which, and what to do with them. Rows of the Q tile, the accumulator and
the softmax anchors stay in VMEM over all steps of a tile:

    first step of a Q tile     windows: 128 rows x window_keys columns each, up to the rows themselves, masked.
                               They scale the queries, set the anchors and start the accumulator
    every step                 anchors for rows that have no window and whose far columns start in this block
      full                       all rows x all columns of the block, no mask
      units                      groups of unit_q x unit_kv, masked
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

Softmax. Exponentials are taken against a fixed anchor per row, HEADROOM bits above its largest score in its window
or among the first columns that it sees, instead of a running maximum: the accumulator is then never rescaled and no
maximum is taken over all scores. An anchor need not be a bound. Every row's sum l certifies it afterwards: with
2^-64 < l < 2^80 nothing has overflowed and what underflowed is below 2^-40 of the result. The headroom lets scores be
up to 112 bits above the anchor's columns, and costs nothing: l is at least 2^-32. Rows out of range get
the log-sum-exp NaN, and the caller takes their results from the running-maximum variant (online=True). Anchor
and certificate of a row are functions of the row's query and of keys that it sees, so other items cannot change
which variant a row gets.

The certificate does not look at the sums of V, which the same weights make: in a certified row they may overflow
where |V| reaches 2^48, and lose products that are flushed to zero where |V| is below about 2^-40.

What a row does not see never reaches it: masked scores are replaced (by a select, so NaN does not spread) before
the exponential; columns outside a step's range take part as copies of a visible key with V = 0.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int32

from isoprefill_pallas.block_sizes import KEY_GRANULE, LANES, BlockSizes

# Fields of a step, flags and unit bits, as in csrc/tile_schedule.h.
Q_TILE, KEY_START, FLAGS, KEY_RANGE, ANCHORS, UNITS, UNITS_END = range(7)
LOCAL_START, LOCAL_END, FIRST_WINDOW = range(3)
FIRST, LAST, FULL, WINDOWS = 1, 2, 4, 8
FAR_BEGIN, FAR_END, NEAR_BEGIN, NEAR_END = range(4)
INTERVAL_FAR, INTERVAL_NEAR, INTERVAL_NOTHING = range(3)
ANCHOR_KEYS = 32
# Windows computed together: more overlap, fewer spill over the registers.
WINDOW_GROUP = 8

LOG2_E = math.log2(math.e)
# What a masked score becomes. Not -inf, which turns a row that sees nothing into NaN; and far below the scores
# of huge keys.
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)
HEADROOM = 32.0
LEAST_CERTIFIED, MOST_CERTIFIED = 2.0**-64, 2.0**80

NT = (((1,), (1,)), ((), ()))  # x [m, d], y [n, d] -> x y^T
NN = (((1,), (0,)), ((), ()))


def ones_rows(dtype: jnp.dtype) -> int:
    """Rows of ones below V^T: one memory tile, so that V^T and they can be one operand."""
    return 32 // jnp.dtype(dtype).itemsize


def _dot(x: jax.Array, y: jax.Array, dimensions) -> jax.Array:
    # The MXU multiplies float32 in bfloat16 passes unless told otherwise.
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(
        x, y, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def _within(index: jax.Array, begin: jax.Array, length: jax.Array) -> jax.Array:
    """begin <= index < begin + length in one comparison."""
    return (index - begin).astype(jnp.uint32) < length.astype(jnp.uint32)


def _iota(shape: tuple[int, ...], dimension: int) -> jax.Array:
    return lax.broadcasted_iota(jnp.int32, shape, dimension)


class _Tile:
    """What the stages of a step share: the refs, the sizes and the arithmetic on scores."""

    def __init__(
        self,
        refs,
        sizes: BlockSizes,
        groups: int,
        head_dim: int,
        log2_scale: float,
        log2_cap,
        online,
    ):
        (
            self.steps,  # SMEM int32 [7, n]
            self.units,  # SMEM int32 [m]
            self.tiles,  # SMEM int32 [K * (2 + bq / 128)]
            self.rows,  # int32 [4, bq]: far_begin, far_end, near_begin, near_end
            self.q,  # [bq, G * D] or [G, bq, D]
            self.k,  # [bk, D] or [1, bk, D]
            self.v,  # as k
            self.local_k,  # [local_keys, D] or [1, local_keys, D]
            self.local_v,
            self.out,  # as q
            self.lse,  # float32 [1, G, bq], base 2
            self.acc,  # scratch float32 [D + ones, R]
            self.top,  # scratch float32 [1, R]: anchor, or running maximum
            self.v_t,  # scratch [D + ones, bk]: V^T of a full step and ones, 0 outside the step's columns
            self.scaled_q,  # scratch [R, D]: the tile's queries x scale x log2(e), one head after another
        ) = refs
        self.sizes = sizes
        self.groups = groups
        self.head_dim = head_dim
        self.log2_scale = log2_scale
        self.log2_cap = log2_cap
        self.online = online
        self.step = pl.program_id(1)
        self.flags = self.field(FLAGS)
        self.key_begin = self.field(KEY_RANGE) & 0xFFFF
        self.key_end = self.field(KEY_RANGE) >> 16

    def has(self, flag: int) -> jax.Array:
        return (self.flags & flag) == flag

    def field(self, name: int) -> jax.Array:
        return self.steps[name, self.step]

    def queries(self, first: jax.Array | int, count: int) -> jax.Array:
        """[G * count, D]: `count` scaled rows of every query head, one head after another."""
        return jnp.concatenate([self.scaled_q[at, :] for at in self.lanes(first, count)], axis=0)

    def bounds(self, which: int, first: jax.Array | int, count: int) -> jax.Array:
        """int32 [1, count]: one of the four interval bounds of `count` rows."""
        return self.rows[which : which + 1, pl.ds(first, count)]

    def per_head(self, x: jax.Array) -> jax.Array:
        """[1, count] -> [1, G * count]: what is per row, for every query head."""
        return jnp.concatenate([x] * self.groups, axis=1)

    def lanes(self, first: jax.Array | int, count: int) -> list:
        """Where `count` rows lie in [.., R], one slice per query head."""
        if isinstance(first, int):
            return [pl.ds(g * self.sizes.block_q + first, count) for g in range(self.groups)]
        at = [pl.multiple_of(g * self.sizes.block_q + first, LANES) for g in range(self.groups)]
        return [pl.ds(start, count) for start in at]

    def gather(self, ref, lanes: list) -> jax.Array:
        return jnp.concatenate([ref[:, at] for at in lanes], axis=1)

    def scores(self, keys: jax.Array, queries: jax.Array) -> jax.Array:
        """Scaled and capped scores in base 2, [columns, rows]."""
        s = _dot(keys, queries, NT)
        return s if self.log2_cap is None else self.log2_cap * jnp.tanh(s * (1 / self.log2_cap))

    def weights(self, s: jax.Array, top: jax.Array) -> jax.Array:
        return jnp.exp2(s - top).astype(self.v.dtype)

    def raise_top(self, s: jax.Array, top: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Running maximum: (new maximum, what to subtract from scores, factor for the accumulator)."""
        new = jnp.maximum(top, s.max(axis=0, keepdims=True))
        # A row that has seen nothing yet: subtract 0, so that its masked scores weigh 0 and not 1.
        subtract = jnp.where(new <= HIDDEN, 0.0, new)
        return new, subtract, jnp.exp2(top - subtract)

    # ---- stages, in the order in which they run ----

    def scale_queries(self, first: int, count: int) -> jax.Array:
        """[G * count, D]: scaled rows of every query head, kept for what follows."""
        d = self.head_dim
        heads = []
        for g, lanes in enumerate(self.lanes(first, count)):
            at = slice(first, first + count)
            q = self.q[g, at, :] if len(self.q.shape) == 3 else self.q[at, g * d : (g + 1) * d]
            scaled = q.astype(jnp.float32) * self.log2_scale
            heads.append(scaled.astype(self.scaled_q.dtype))
            self.scaled_q[lanes, :] = heads[-1]
        return jnp.concatenate(heads, axis=0)

    def start_tile(self) -> None:
        self.scale_queries(0, self.sizes.block_q)
        self.acc[...] = jnp.zeros_like(self.acc)
        self.top[...] = jnp.full_like(self.top, HIDDEN if self.online else 0.0)

    def find_anchors(self, group: jax.Array) -> None:
        """Sets the anchors of rows without a window, from the columns where what they see starts."""
        sizes, first = self.sizes, self.field(ANCHORS) + group * self.sizes.unit_group
        for entry in [self.units[first + i] for i in range(sizes.unit_group)]:
            row, key, interval = self.unit(entry)
            s = self.scores(self.k_rows(self.k, key, ANCHOR_KEYS), self.queries(row, sizes.unit_q))
            begin, end = (self.bounds(which, row, sizes.unit_q) for which in (FAR_BEGIN, FAR_END))
            column = self.field(KEY_START) + key
            # Rows that an earlier step has anchored keep their anchor, though they may see these columns too.
            first_new = jnp.maximum(column, self.field(KEY_START) + self.key_begin)
            starts = _within(begin, first_new, column + ANCHOR_KEYS - first_new)
            length = jnp.where(starts & (interval != INTERVAL_NOTHING), end - begin, 0)
            if sizes.window_keys:
                near_end, near_begin = (
                    self.bounds(which, row, sizes.unit_q) for which in (NEAR_END, NEAR_BEGIN)
                )
                # The first 128 rows of a row block have a window if any of its rows have.
                anchored = jnp.where(self.window_of(row) < 0, 0, near_end - near_begin)
                length = jnp.where(anchored > 0, 0, length)
            seen = _within(_iota(s.shape, 0), self.per_head(begin - column), self.per_head(length))
            best = jnp.where(seen, s, HIDDEN).max(axis=0, keepdims=True)
            lanes = self.lanes(row, sizes.unit_q)
            anchor = jnp.where(best <= HIDDEN, self.gather(self.top, lanes), best + HEADROOM)
            for g, at in enumerate(lanes):
                self.top[:, at] = anchor[:, g * sizes.unit_q : (g + 1) * sizes.unit_q]

    def transpose_values(self) -> None:
        d, block = self.head_dim, self.sizes.block_kv
        v = self.k_rows(self.v, 0, block)
        length = self.key_end - self.key_begin
        v = jnp.where(_within(_iota(v.shape, 0), self.key_begin, length), v, jnp.zeros_like(v))
        self.v_t[:d, :] = v.T
        ones = jnp.ones((self.v_t.shape[0] - d, block), v.dtype)
        inside = _within(_iota(ones.shape, 1), self.key_begin, length)
        self.v_t[d:, :] = jnp.where(inside, ones, jnp.zeros_like(ones))

    def full_block(self) -> None:
        sizes = self.sizes
        self.transpose_values()
        # Columns outside the range get the first key inside it, which every row sees: whatever their weights
        # come to is in range if the row is, and V^T is 0 there.
        aligned = pl.multiple_of(self.key_begin & -KEY_GRANULE, KEY_GRANULE)
        some = self.k_rows(self.k, aligned, KEY_GRANULE)
        only = jnp.where(
            _iota(some.shape, 0) == self.key_begin - aligned, some.astype(jnp.float32), 0.0
        )
        visible_key = only.sum(axis=0, keepdims=True).astype(some.dtype)
        # A full step starts its tile itself, here, where the matmul unit is what everything else waits for.
        first = self.has(FIRST)
        queries = self.scale_queries(0, sizes.block_q)
        acc, top = jnp.where(first, 0.0, self.acc[...]), self.top[...]
        for start in range(0, sizes.block_kv, sizes.chunk_kv):
            keys = self.k_rows(self.k, start, sizes.chunk_kv)
            column = start + _iota(keys.shape, 0)
            keys = jnp.where(
                _within(column, self.key_begin, self.key_end - self.key_begin), keys, visible_key
            )
            s = self.scores(keys, queries)
            v_t = self.v_t[:, start : start + sizes.chunk_kv]
            if self.online:
                top = jnp.where(first, HIDDEN, top) if start == 0 else top
                top, subtract, factor = self.raise_top(s, top)
                acc = acc * factor + _dot(v_t, self.weights(s, subtract), NN)
            else:
                if start == 0:
                    anchor = s[:ANCHOR_KEYS].max(axis=0, keepdims=True) + HEADROOM
                    top = jnp.where(first, anchor, top)
                acc = acc + _dot(v_t, self.weights(s, top), NN)
            self.acc[...] = acc
            acc = self.acc[...]
        self.top[...] = top

    def unit_group(self, first: jax.Array, count: int) -> None:
        """`count` units: all scores, then all weights, then all products, so that they overlap."""
        sizes = self.sizes
        scores, v_ts, lanes = [], [], []
        for row, key, interval in [self.unit(self.units[first + i]) for i in range(count)]:
            s = self.scores(
                self.k_rows(self.k, key, sizes.unit_kv), self.queries(row, sizes.unit_q)
            )
            scores.append(self.mask_unit(s, row, key, interval))
            length = jnp.where(interval == INTERVAL_NOTHING, 0, self.key_end - key)
            v_ts.append(self.transposed(self.k_rows(self.v, key, sizes.unit_kv), length))
            lanes.append(self.lanes(row, sizes.unit_q))
        self.accumulate(scores, v_ts, lanes, sizes.unit_q)

    def mask_unit(
        self, s: jax.Array, row: jax.Array, key: jax.Array, interval: jax.Array
    ) -> jax.Array:
        far = interval == INTERVAL_FAR
        count = self.sizes.unit_q
        begin, end = (
            jnp.where(far, self.bounds(of_far, row, count), self.bounds(of_near, row, count))
            for of_far, of_near in ((FAR_BEGIN, NEAR_BEGIN), (FAR_END, NEAR_END))
        )
        # What an overlapping block before this one has covered.
        begin = jnp.maximum(begin, self.field(KEY_START) + self.key_begin)
        length = jnp.where(interval == INTERVAL_NOTHING, 0, jnp.maximum(end - begin, 0))
        column = self.field(KEY_START) + key
        seen = _within(_iota(s.shape, 0), self.per_head(begin - column), self.per_head(length))
        return jnp.where(seen, s, HIDDEN)

    def windows(self, *, fresh: bool) -> None:
        """The near columns of every 128 rows. `fresh` ones are the first that the rows of the tile meet."""
        sizes = self.sizes
        first = self.field(Q_TILE) * (FIRST_WINDOW + sizes.block_q // LANES)
        local_start, local_end = self.tiles[first + LOCAL_START], self.tiles[first + LOCAL_END]
        scores, v_ts, lanes = [], [], []
        for row in range(0, sizes.block_q, LANES):
            window = self.window_of(row)
            key = pl.multiple_of(jnp.maximum(window, 0), KEY_GRANULE)
            queries = self.scale_queries(row, LANES) if fresh else self.queries(row, LANES)
            s = self.scores(self.k_rows(self.local_k, key, sizes.window_keys), queries)
            begin, end = self.bounds(NEAR_BEGIN, row, LANES), self.bounds(NEAR_END, row, LANES)
            length = jnp.where(window < 0, 0, end - begin)
            column = local_start + key
            seen = _within(_iota(s.shape, 0), self.per_head(begin - column), self.per_head(length))
            scores.append(jnp.where(seen, s, HIDDEN))
            v = self.k_rows(self.local_v, key, sizes.window_keys)
            v_ts.append(self.transposed(v, jnp.where(window < 0, 0, local_end - key)))
            lanes.append(self.lanes(row, LANES))
            if len(scores) == WINDOW_GROUP or row + LANES == sizes.block_q:
                self.accumulate(scores, v_ts, lanes, LANES, fresh=fresh)
                scores, v_ts, lanes = [], [], []

    def finish_tile(self) -> None:
        d, bq = self.head_dim, self.sizes.block_q
        total = self.acc[d : d + 1, :]
        seen = self.per_head(
            jnp.maximum(
                self.bounds(1, 0, bq) - self.bounds(0, 0, bq),
                self.bounds(3, 0, bq) - self.bounds(2, 0, bq),
            )
        )
        lse = self.top[...] + jnp.log2(total)
        if not self.online:
            certified = (total > LEAST_CERTIFIED) & (total < MOST_CERTIFIED)
            lse = jnp.where(certified, lse, jnp.nan)
        lse = jnp.where(seen > 0, lse, -jnp.inf)
        inverse = jnp.where(seen > 0, 1.0 / total, 0.0)
        for g in range(self.groups):
            at = slice(g * bq, (g + 1) * bq)
            # Padding rows may have met anything; 0 * NaN would be NaN.
            o_t = jnp.where(seen[:, at] > 0, self.acc[:d, at] * inverse[:, at], 0.0)
            o = o_t.astype(self.out.dtype).T
            if len(self.out.shape) == 3:
                self.out[g] = o
            else:
                self.out[:, g * d : (g + 1) * d] = o
            self.lse[0, g : g + 1, :] = lse[:, at]

    # ---- helpers of the stages ----

    def k_rows(self, ref, first: jax.Array | int, count: int) -> jax.Array:
        """[count, D] of a block of keys or values."""
        if len(ref.shape) == 3:
            return ref[0, pl.ds(first, count), :]
        return ref[pl.ds(first, count), :]

    def unit(self, entry: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(first row in the tile, first column in the block, interval) of an entry."""
        row = pl.multiple_of((entry & 255) * self.sizes.unit_q, LANES)
        key = pl.multiple_of(((entry >> 8) & 4095) * KEY_GRANULE, KEY_GRANULE)
        return row, key, (entry >> 20) & 3

    def window_of(self, row: jax.Array | int) -> jax.Array:
        """Where the window of 128 rows starts in the local block; negative if they have none."""
        per_tile = FIRST_WINDOW + self.sizes.block_q // LANES
        group = row // LANES if isinstance(row, int) else lax.div(row, LANES)
        return self.tiles[self.field(Q_TILE) * per_tile + FIRST_WINDOW + group]

    def transposed(self, v: jax.Array, length: jax.Array) -> jax.Array:
        """[D + ones, columns]: V^T and rows of ones, from v [columns, D] of which `length` count."""
        # Padding columns may hold anything, and 0 * NaN would be NaN.
        v = jnp.where(_iota(v.shape, 0) < length, v, jnp.zeros_like(v))
        ones = jnp.ones((ones_rows(v.dtype), v.shape[0]), v.dtype)
        return jnp.concatenate([v.T, ones], axis=0)

    def accumulate(
        self, scores: list, v_ts: list, lanes: list, count: int, *, fresh: bool = False
    ) -> None:
        """Adds independent pieces of scores [columns, G * count] to the accumulators of their rows.

        With `fresh`, the pieces are the first of their rows: they set anchors and accumulators.
        """
        subtract: list[jax.Array] = []
        factors: list[jax.Array | None] = [None] * len(scores)
        for i, (s, at) in enumerate(zip(scores, lanes, strict=True)):
            if fresh:
                best = s.max(axis=0, keepdims=True)
                anchor = best if self.online else best + HEADROOM
                # A row that has seen nothing yet: subtract 0, so that its masked scores weigh 0 and not 1.
                subtract.append(jnp.where(best <= HIDDEN, 0.0, anchor))
                new = anchor if self.online else subtract[-1]
            elif self.online:
                new, raised, factors[i] = self.raise_top(s, self.gather(self.top, at))
                subtract.append(raised)
            else:
                subtract.append(self.gather(self.top, at))
                continue
            for g, lane in enumerate(at):
                self.top[:, lane] = new[:, g * count : (g + 1) * count]
        weights = [self.weights(s, top) for s, top in zip(scores, subtract, strict=True)]
        products = [_dot(v_t, p, NN) for v_t, p in zip(v_ts, weights, strict=True)]
        for product, factor, at in zip(products, factors, lanes, strict=True):
            for g, lane in enumerate(at):
                here = product[:, g * count : (g + 1) * count]
                if not fresh:
                    old = self.acc[:, lane]
                    if factor is not None:
                        old = old * factor[:, g * count : (g + 1) * count]
                    here = old + here
                self.acc[:, lane] = here


def _kernel(*refs, sizes, groups, head_dim, log2_scale, log2_cap, online):
    tile = _Tile(refs, sizes, groups, head_dim, log2_scale, log2_cap, online)
    group = sizes.unit_group

    def loop(first: jax.Array, end: jax.Array, count: int, body: Callable[[jax.Array], None]):
        def once(i, _):
            body(i)
            return 0

        lax.fori_loop(0, lax.div(end - first, count), once, 0)

    has_windows = tile.has(WINDOWS) if sizes.window_keys else False
    starts = (tile.flags & (FIRST | FULL)) == FIRST
    pl.when(starts & jnp.logical_not(has_windows))(tile.start_tile)
    if sizes.window_keys:
        pl.when(starts & has_windows)(functools.partial(tile.windows, fresh=True))
    anchors, units, units_end = (tile.field(name) for name in (ANCHORS, UNITS, UNITS_END))
    if not online:
        loop(anchors, units, sizes.unit_group, tile.find_anchors)
    if sizes.full_keys:
        pl.when(tile.has(FULL))(tile.full_block)
    loop(units, units_end, group, lambda i: tile.unit_group(units + i * group, group))
    if sizes.window_keys and sizes.full_keys:
        pl.when(has_windows & jnp.logical_not(starts))(functools.partial(tile.windows, fresh=False))
    pl.when(tile.has(LAST))(tile.finish_tile)


def tile_attention(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    row_bounds: Int32[Array, "4 T"],
    steps: Int32[Array | np.ndarray, "7 n"],
    units: Int32[Array | np.ndarray, "m"],
    tiles: Int32[Array | np.ndarray, "K windows"],
    *,
    num_steps: int | Int32[Array | np.ndarray, ""],
    sizes: BlockSizes,
    scale: float,
    soft_cap: float | None = None,
    online: bool = False,
    interpret: bool | pltpu.InterpretParams = False,
    vmem_limit_bytes: int | None = None,
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    """One pass of the kernel over the rows of `tiles`.

    Args:
        q, k, v: bfloat16 or float32, all alike. S is the schedule's `padded_columns`.
        row_bounds, steps, units, tiles: of the tile schedule of a layout for these `sizes`.
        num_steps: how many of the steps count; what follows them is padding. An int fixes the grid.
        online: keep a running maximum instead of fixed anchors.

    Returns:
        The output in q's dtype, and the natural log-sum-exp of each row's scores: -inf for padding, NaN for rows
        whose anchor does not certify their output (never with `online`).
    """
    rows, query_heads, head_dim = q.shape
    kv_heads = k.shape[1]
    groups = query_heads // kv_heads
    bq, bk = sizes.block_q, sizes.block_kv
    local_keys = max(sizes.local_keys, KEY_GRANULE)
    per_tile = FIRST_WINDOW + bq // LANES
    stacked = groups * bq
    # Heads side by side in memory can be cut along whole lanes; otherwise heads come first.
    token_major = head_dim % LANES == 0
    element = pl.Element

    def q_tile(h, t, steps, units, tiles):
        return (steps[Q_TILE, t], h) if token_major else (h, steps[Q_TILE, t], 0)

    def columns_from(start):
        start = pl.multiple_of(start, KEY_GRANULE)

        def at(h):
            return (start, pl.multiple_of(h * head_dim, LANES)) if token_major else (h, start, 0)

        return at

    def block(h, t, steps, units, tiles):
        return columns_from(steps[KEY_START, t])(h)

    def local(h, t, steps, units, tiles):
        return columns_from(tiles[steps[Q_TILE, t] * per_tile])(h)

    def kv_spec(count, index):
        shape = (element(count), element(head_dim))
        return pl.BlockSpec(shape if token_major else (element(1), *shape), index)

    def per_row(h, t, steps, units, tiles):
        return (0, steps[Q_TILE, t])

    in_memory: Any = jax.ShapeDtypeStruct
    if not interpret:
        # Left alone, the compiler may put whole operands into VMEM, where vector instructions copy the blocks.
        in_memory = pltpu.HBM
        row_bounds, q, k, v = (
            pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in (row_bounds, q, k, v)
        )
    if token_major:
        q_spec = pl.BlockSpec((bq, groups * head_dim), q_tile)
        q, k, v = (x.reshape(x.shape[0], -1) for x in (q, k, v))
    else:
        q_spec = pl.BlockSpec((groups, bq, head_dim), q_tile)
        q, k, v = (x.swapaxes(0, 1) for x in (q, k, v))

    depth = head_dim + ones_rows(v.dtype)
    out, lse = pl.pallas_call(
        functools.partial(
            _kernel,
            sizes=sizes,
            groups=groups,
            head_dim=head_dim,
            log2_scale=scale * LOG2_E,
            log2_cap=None if soft_cap is None else soft_cap * LOG2_E,
            online=online,
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(
                kv_heads,
                num_steps if isinstance(num_steps, int) else jnp.asarray(num_steps),
            ),
            in_specs=[
                pl.BlockSpec((4, bq), per_row),
                q_spec,
                kv_spec(bk, block),
                kv_spec(bk, block),
                kv_spec(local_keys, local),
                kv_spec(local_keys, local),
            ],
            out_specs=[
                q_spec,
                pl.BlockSpec(
                    (1, groups, bq), lambda h, t, steps, units, tiles: (h, 0, steps[Q_TILE, t])
                ),
            ],
            scratch_shapes=[
                pltpu.VMEM((depth, stacked), jnp.float32),
                pltpu.VMEM((1, stacked), jnp.float32),
                pltpu.VMEM((depth, bk if sizes.full_keys else LANES), v.dtype),
                pltpu.VMEM((stacked, head_dim), q.dtype),
            ],
        ),
        out_shape=[
            in_memory(q.shape, q.dtype),
            in_memory((kv_heads, groups, rows), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem_limit_bytes
        ),
        interpret=interpret,
        name="isoprefill_online" if online else "isoprefill_anchored",
    )(steps, units, tiles.reshape(-1), row_bounds, q, k, v, k, v)
    out = out.reshape(rows, query_heads, head_dim) if token_major else out.swapaxes(0, 1)
    return out, lse.reshape(query_heads, rows).T / LOG2_E
