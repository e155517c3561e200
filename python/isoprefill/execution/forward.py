"""What one data shard computes, before anything is compiled: the functions that every algorithm is made of.

Letters, here and in model_runner.py: D data shards, T rows and S columns of a pack, L layers, P columns of a prefix,
Hkv key and value heads, Hd head_dim, E hidden size, M rows of a read-out, K tokens at each, C classes. `*D` is there
only in what has been stacked for all shards.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int32

from isoprefill.attention import multi_item_attention
from isoprefill.attention.layout import Ints, PackedLayout
from isoprefill.bits import from_bits, to_bits
from isoprefill.execution.layer_kernels import layer_kernels
from isoprefill.execution.mesh import TENSOR
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.decoder.decoder import decode
from isoprefill.models.decoder.head import ROWS_AT_ONCE, class_logits_at, logprobs_at, states_at
from isoprefill.models.decoder.row_shares import RowShares
from isoprefill.models.weights.params import Params
from isoprefill.modes import Backend

# Rows of logits at once on a TPU, whose time at the head is that of reading its weights: half of what 256 rows need.
TPU_ROWS_AT_ONCE = 512


class PackInputs(NamedTuple):
    """The rows of a pack."""

    token_ids: Int32[Ints, "*D T"]
    num_rows: Int32[Ints, "*D"]  # the others are padding
    layout: PackedLayout
    windowed: PackedLayout | None = None  # for the windowed layers, if others have no window
    vectors: Float32[Ints, "*D R E"] | None = None  # what the token ids below 0 stand for
    # Of each column after the cached prefix the row whose key and value it holds; None: they are the rows, in order.
    column_rows: Int32[Ints, "*D C"] | None = None


class PrefixState(NamedTuple):
    """A prefix that has been computed; columns after its tokens are padding that no row sees."""

    keys: Float[Array, "L P Hkv Hd"]
    values: Float[Array, "L P Hkv Hd"]
    last_hidden: Float[Array, "E"]  # of the last token: it predicts every item's first token


class ReadoutInputs(NamedTuple):
    """Which log-probabilities to read."""

    rows: Int32[Ints, "*D M"]
    num_rows: Int32[Ints, "*D"]
    token_ids: Int32[Ints, "*D M K"]


@dataclasses.dataclass(frozen=True, slots=True)
class Forward:
    """The forward functions of one model, on the part of its weights that a device has.

    Attributes:
        config: sizes and switches of the model.
        attention: back end.
        tensor_shards: devices that the weights are split over; more than one only inside shard_map.
    """

    config: ModelConfig
    attention: Backend
    tensor_shards: int

    @property
    def rows_at_once(self) -> int:
        """Rows of which `read` computes all logits at once."""
        return TPU_ROWS_AT_ONCE if self.attention == "pallas" else ROWS_AT_ONCE

    def hidden_states(
        self,
        params: Params,
        pack: PackInputs,
        prefix: PrefixState | None,
        prefix_len: Int32[Array, ""],
    ) -> Float[Array, "T E"] | Float[Array, "T+1 E"]:
        """Computes the hidden states of a pack. Over a prefix S = P + T, and its last row is appended."""
        hidden, _ = self._decode(params, pack, prefix, prefix_len)
        if prefix is None:
            return hidden
        return jnp.concatenate([hidden, prefix.last_hidden[None]])

    def prefix(
        self,
        params: Params,
        pack: PackInputs,
        begun: PrefixState | None,
        begun_len: Int32[Array, ""],
        last_row: Int32[Array, ""],
        columns: int,
    ) -> PrefixState:
        """Computes a prefix of P = `columns`: the whole pack, or a shorter prefix and then the pack's only item."""
        hidden, (keys, values) = self._decode(params, pack, begun, begun_len, return_kv=True)

        def joined(kept: Array, of_rows: Array) -> Array:
            room = ((0, 0), (0, columns + of_rows.shape[1]), (0, 0), (0, 0))
            both = lax.dynamic_update_slice_in_dim(jnp.pad(kept, room), of_rows, begun_len, axis=1)
            return both[:, :columns]

        if begun is not None:
            keys, values = joined(begun.keys, keys), joined(begun.values, values)
        return PrefixState(keys, values, hidden[last_row])

    def read(
        self, params: Params, hidden: Float[Array, "T E"], readout: ReadoutInputs
    ) -> Float[Array, "M K"]:
        """Computes log-probabilities from hidden states."""
        logprobs = logprobs_at(
            params,
            self.config,
            hidden,
            jnp.asarray(readout.rows),
            jnp.asarray(readout.num_rows),
            jnp.asarray(readout.token_ids),
            device=lax.axis_index(TENSOR) if self.tensor_shards > 1 else 0,
            num_devices=self.tensor_shards,
            rows_at_once=self.rows_at_once,
        )
        return self._all_reduce(logprobs)

    def class_logits(
        self, params: Params, hidden: Float[Array, "T E"], rows: Int32[Array, "M"]
    ) -> Float[Array, "M C"]:
        """Computes the logits of all classes at some rows."""
        return class_logits_at(params, hidden, rows)

    def states(
        self, params: Params, hidden: Float[Array, "T E"], rows: Int32[Array, "M"]
    ) -> Float[Array, "M E"]:
        """Returns the hidden states at some rows, float32."""
        return states_at(hidden, rows).astype(jnp.float32)

    def _decode(
        self,
        params: Params,
        pack: PackInputs,
        prefix: PrefixState | None,
        prefix_len: Int32[Array, ""],
        *,
        return_kv: bool = False,
    ) -> tuple[Float[Array, "T E"], Any]:
        """Computes the hidden states, and keys and values, of a pack's rows."""
        layouts = [pack.layout] if pack.windowed is None else [pack.layout, pack.windowed]
        windows = tuple(layout.window for layout in layouts)
        if windows != self.config.windows:
            raise ValueError(f"a pack must have windows {self.config.windows}, got {windows}")

        def attend(q: Array, k: Array, v: Array, of_layer: Any) -> Array:
            cached, in_window, sinks = of_layer
            if pack.column_rows is not None:
                k, v = (_in_columns(array, jnp.asarray(pack.column_rows)) for array in (k, v))
            if cached is not None:
                k, v = (
                    _after_prefix(kept, new, prefix_len)
                    for kept, new in zip(cached, (k, v), strict=True)
                )

            def over(layout: PackedLayout) -> Array:
                out = multi_item_attention(
                    q,
                    k,
                    v,
                    layout,
                    backend=self.attention,
                    scale=self.config.query_scale,
                    soft_cap=self.config.score_softcap,
                    sinks=sinks,
                )
                assert isinstance(out, jax.Array)
                return out

            if pack.windowed is None:
                return over(pack.layout)
            attended: Array = lax.cond(
                in_window,
                functools.partial(over, pack.windowed),
                functools.partial(over, pack.layout),
            )
            return attended

        # Whether each layer is windowed, [L].
        windowed = [window is not None for window in self.config.layer_windows]
        in_window = None if pack.windowed is None else jnp.asarray(windowed)
        return decode(
            params,
            self.config,
            jnp.asarray(pack.token_ids),
            jnp.asarray(pack.layout.positions),
            attend,
            (
                None if prefix is None else (prefix.keys, prefix.values),
                in_window,
                params.layers.sinks,
            ),
            num_rows=jnp.asarray(pack.num_rows),
            vectors=None if pack.vectors is None else jnp.asarray(pack.vectors),
            return_kv=return_kv,
            shares=RowShares.over(
                TENSOR, self.tensor_shards, pack.token_ids.shape[0], self._all_reduce
            ),
            kernels=layer_kernels(params, self.config, self.attention),
        )

    def _all_reduce(self, partial: Array) -> Array:
        return partial if self.tensor_shards == 1 else lax.psum(partial, TENSOR)


def _in_columns(
    of_rows: Float[Array, "T Hkv Hd"], column_rows: Int32[Array, "C"]
) -> Float[Array, "C Hkv Hd"]:
    """Returns what the columns hold, of which several may hold the same row."""
    return from_bits(jnp.take(to_bits(of_rows), column_rows, axis=0, mode="clip"))


def _after_prefix(
    kept: Float[Array, "P Hkv Hd"], new: Float[Array, "C Hkv Hd"], prefix_len: Int32[Array, ""]
) -> Float[Array, "P+C Hkv Hd"]:
    """Returns all columns: the prefix, then what follows it, then padding."""
    room = jnp.pad(to_bits(kept), ((0, new.shape[0]), (0, 0), (0, 0)))
    return from_bits(lax.dynamic_update_slice_in_dim(room, to_bits(new), prefix_len, axis=0))
