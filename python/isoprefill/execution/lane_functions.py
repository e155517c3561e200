"""What one lane computes, before anything is compiled: the functions that every algorithm is made of.

Letters: see step_inputs.py.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from isoprefill.attention import multi_item_attention
from isoprefill.bits import from_bits, to_bits
from isoprefill.execution.mesh import TENSOR
from isoprefill.execution.step_inputs import PackInputs, PrefixState, ReadoutInputs
from isoprefill.models.config import ModelConfig
from isoprefill.models.decoder import Params, decode
from isoprefill.models.head import logprobs_at
from isoprefill.modes import Backend


@dataclasses.dataclass(frozen=True, slots=True)
class LaneFunctions:
    """The functions of one model, on the part of its weights that a device has.

    Attributes:
        config: sizes and switches of the model.
        attention: back end.
        tensor: devices that share out the weights; more than one only inside shard_map.
    """

    config: ModelConfig
    attention: Backend
    tensor: int

    def prefill(self, params: Params, pack: PackInputs) -> Float[Array, "T E"]:
        """The hidden states of a pack."""
        return self._decode(params, pack)[0]

    def prefill_prefix(
        self, params: Params, pack: PackInputs, last_row: Int32[Array, ""]
    ) -> PrefixState:
        """A prefix that is the whole pack, with P = T."""
        hidden, (keys, values) = self._decode(params, pack, return_kv=True)
        return PrefixState(keys, values, hidden[last_row])

    def extend(
        self, params: Params, pack: PackInputs, prefix: PrefixState, prefix_len: Int32[Array, ""]
    ) -> Float[Array, "T+1 E"]:
        """The hidden states of rows over a cached prefix, and the prefix's last. The layout has P + T columns."""
        hidden, _ = self._decode(params, pack, prefix, prefix_len)
        return jnp.concatenate([hidden, prefix.last_hidden[None]])

    def extend_prefix(
        self,
        params: Params,
        pack: PackInputs,
        prefix: PrefixState,
        prefix_len: Int32[Array, ""],
        last_row: Int32[Array, ""],
        columns: int,
    ) -> PrefixState:
        """A longer prefix with P = columns; what follows the shorter one is packed as an item."""
        hidden, new = self._decode(params, pack, prefix, prefix_len, return_kv=True)

        def joined(kept: Array, of_rows: Array) -> Array:
            room = ((0, 0), (0, columns + of_rows.shape[1]), (0, 0), (0, 0))
            both = lax.dynamic_update_slice_in_dim(jnp.pad(kept, room), of_rows, prefix_len, axis=1)
            return both[:, :columns]

        keys, values = (
            joined(kept, of_rows)
            for kept, of_rows in zip((prefix.keys, prefix.values), new, strict=True)
        )
        return PrefixState(keys, values, hidden[last_row])

    def read(
        self, params: Params, hidden: Float[Array, "T E"], asked: ReadoutInputs
    ) -> Float[Array, "M K"]:
        """The log-probabilities that are asked for."""
        logprobs = logprobs_at(
            params,
            self.config,
            hidden,
            jnp.asarray(asked.rows),
            jnp.asarray(asked.num_rows),
            jnp.asarray(asked.token_ids),
            device=lax.axis_index(TENSOR) if self.tensor > 1 else 0,
            num_devices=self.tensor,
        )
        return self._all_reduce(logprobs)

    def _decode(
        self,
        params: Params,
        pack: PackInputs,
        prefix: PrefixState | None = None,
        prefix_len: Any = None,
        *,
        return_kv: bool = False,
    ) -> tuple[Float[Array, "T E"], Any]:
        """Hidden states, and keys and values, of a pack's rows."""

        def attend(q: Array, k: Array, v: Array, cached: Any) -> Array:
            if cached is not None:
                k, v = (
                    _after_prefix(kept, new, prefix_len)
                    for kept, new in zip(cached, (k, v), strict=True)
                )
            out = multi_item_attention(q, k, v, pack.layout, backend=self.attention)
            assert isinstance(out, jax.Array)
            return out

        return decode(
            params,
            self.config,
            jnp.asarray(pack.token_ids),
            jnp.asarray(pack.layout.positions),
            attend,
            None if prefix is None else (prefix.keys, prefix.values),
            return_kv=return_kv,
            all_reduce=self._all_reduce,
        )

    def _all_reduce(self, partial: Array) -> Array:
        return partial if self.tensor == 1 else lax.psum(partial, TENSOR)


def _after_prefix(
    kept: Float[Array, "P Hkv Hd"], new: Float[Array, "T Hkv Hd"], prefix_len: Int32[Array, ""]
) -> Float[Array, "P+T Hkv Hd"]:
    """Columns: the prefix, then the rows, then padding."""
    room = jnp.pad(to_bits(kept), ((0, new.shape[0]), (0, 0), (0, 0)))
    return from_bits(lax.dynamic_update_slice_in_dim(room, to_bits(new), prefix_len, axis=0))
