"""What runs on the devices: the four functions that every algorithm is made of, compiled.

Packs come in lanes: a leading axis D of packs of one shape, one on each device of the mesh's data axis. Without a
mesh D is 1. Letters: D lanes, T rows and S columns of a pack, L layers, P columns of a cached prefix, Hkv key and
value heads, Hd head_dim, E hidden size, M rows asked for, K tokens at each.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int32

from isoprefill.attention import multi_item_attention
from isoprefill.bits import from_bits, to_bits
from isoprefill.head import logprobs_at
from isoprefill.layout import Ints, PackedLayout
from isoprefill.mesh import DATA, KEYS_AND_VALUES, TENSOR, param_specs
from isoprefill.models.config import ModelConfig
from isoprefill.models.decoder import Params, decode
from isoprefill.modes import Backend


class PackInputs(NamedTuple):
    """The rows of a pack."""

    token_ids: Int32[Ints, "*D T"]
    layout: PackedLayout


class PrefixState(NamedTuple):
    """A prefix that has been computed; columns after its tokens are padding that nobody sees."""

    keys: Float[Array, "L P Hkv Hd"]
    values: Float[Array, "L P Hkv Hd"]
    last_hidden: Float[Array, "E"]


class ReadoutInputs(NamedTuple):
    """Which log-probabilities are asked for."""

    rows: Int32[Ints, "*D M"]
    num_rows: Int32[Ints, "*D"]
    token_ids: Int32[Ints, "*D M K"]


class Steps(NamedTuple):
    """The compiled functions of one model on one mesh.

    Attributes:
        prefill: (params, PackInputs [D, …]) -> hidden states [D, T, E].
        prefill_prefix: (params, PackInputs, last row) -> PrefixState with P = T. The pack holds a prefix only.
        extend: (params, PackInputs [D, …], PrefixState, its tokens) -> hidden states [D, T + 1, E], the last being
            the prefix's last. The layouts have a cached prefix and S = P + T columns.
        extend_prefix: (params, PackInputs, PrefixState, its tokens, last row, P of the result) -> PrefixState.
            What follows the prefix is packed as an item.
        read: (params, hidden states [D, T, E], ReadoutInputs [D, …]) -> log-probabilities [D, M, K].
    """

    prefill: Callable[..., Float[Array, "D T E"]]
    prefill_prefix: Callable[..., PrefixState]
    extend: Callable[..., Float[Array, "D T+1 E"]]
    extend_prefix: Callable[..., PrefixState]
    read: Callable[..., Float[Array, "D M K"]]


@functools.cache  # two engines with one model share their compilations
def steps(config: ModelConfig, attention: Backend, mesh: Mesh | None) -> Steps:
    """The functions for this model, attention back end and mesh (None: the default device)."""
    tensor = 1 if mesh is None else mesh.shape[TENSOR]

    def all_reduce(partial: Array) -> Array:
        return partial if tensor == 1 else lax.psum(partial, TENSOR)

    def rows(
        params: Params,
        pack: PackInputs,
        prefix: PrefixState | None,
        prefix_len: Any,
        return_kv: bool,
    ) -> tuple[Float[Array, "T E"], Any]:
        """Hidden states, and keys and values, of a pack's rows."""

        def attend(q: Array, k: Array, v: Array, cached: Any) -> Array:
            if cached is not None:  # columns: the prefix, then the rows, then padding
                k, v = (
                    from_bits(
                        lax.dynamic_update_slice_in_dim(
                            jnp.pad(to_bits(kept), ((0, new.shape[0]), (0, 0), (0, 0))),
                            to_bits(new),
                            prefix_len,
                            axis=0,
                        )
                    )
                    for kept, new in zip(cached, (k, v), strict=True)
                )
            out = multi_item_attention(q, k, v, pack.layout, backend=attention)
            assert isinstance(out, jax.Array)
            return out

        cache = None if prefix is None else (prefix.keys, prefix.values)
        return decode(
            params,
            config,
            jnp.asarray(pack.token_ids),
            jnp.asarray(pack.layout.positions),
            attend,
            cache,
            return_kv=return_kv,
            all_reduce=all_reduce,
        )

    def prefill(params: Params, pack: PackInputs) -> Array:
        return rows(params, pack, None, None, False)[0]

    def prefill_prefix(params: Params, pack: PackInputs, last_row: Array) -> PrefixState:
        hidden, (keys, values) = rows(params, pack, None, None, True)
        return PrefixState(keys, values, hidden[last_row])

    def extend(params: Params, pack: PackInputs, prefix: PrefixState, prefix_len: Array) -> Array:
        hidden, _ = rows(params, pack, prefix, prefix_len, False)
        return jnp.concatenate([hidden, prefix.last_hidden[None]])

    def extend_prefix(
        params: Params,
        pack: PackInputs,
        prefix: PrefixState,
        prefix_len: Array,
        last_row: Array,
        columns: int,
    ) -> PrefixState:
        hidden, new = rows(params, pack, prefix, prefix_len, True)

        def joined(kept: Array, of_rows: Array) -> Array:
            room = ((0, 0), (0, columns + of_rows.shape[1]), (0, 0), (0, 0))
            both = lax.dynamic_update_slice_in_dim(jnp.pad(kept, room), of_rows, prefix_len, axis=1)
            return both[:, :columns]

        keys, values = (
            joined(kept, of_rows)
            for kept, of_rows in zip((prefix.keys, prefix.values), new, strict=True)
        )
        return PrefixState(keys, values, hidden[last_row])

    def read(params: Params, hidden: Array, asked: ReadoutInputs) -> Array:
        device = lax.axis_index(TENSOR) if tensor > 1 else 0
        logprobs = logprobs_at(
            params,
            config,
            hidden,
            jnp.asarray(asked.rows),
            jnp.asarray(asked.num_rows),
            jnp.asarray(asked.token_ids),
            device=device,
            num_devices=tensor,
        )
        return all_reduce(logprobs)

    lane, whole = PartitionSpec(DATA), PartitionSpec()
    state = PrefixState._make((KEYS_AND_VALUES, KEYS_AND_VALUES, whole))

    def compiled(
        function: Callable[..., Any],
        specs: tuple[Any, ...],
        out_spec: Any,
        static: tuple[int, ...] = (),
    ) -> Callable[..., Any]:
        """The function of (params, …), jitted; arguments with the spec `lane` lose their leading axis inside."""

        def of_lane(params: Params, *arguments: Any) -> Any:
            inside = [
                jax.tree.map(lambda array: array[0], argument) if spec is lane else argument
                for argument, spec in zip(arguments, specs, strict=False)
            ]
            result = function(params, *inside, *arguments[len(specs) :])
            return jax.tree.map(lambda array: array[None], result) if out_spec is lane else result

        def on_mesh(params: Params, *arguments: Any) -> Any:
            traced, fixed = arguments[: len(specs)], arguments[len(specs) :]
            if mesh is None:
                return of_lane(params, *arguments)
            mapped = jax.shard_map(
                lambda params, *traced: of_lane(params, *traced, *fixed),
                mesh=mesh,
                in_specs=(param_specs(params), *specs),
                out_specs=out_spec,
                check_vma=False,  # the head's loop has another length on each device
            )
            return mapped(params, *traced)

        on_mesh.__name__ = function.__name__
        return jax.jit(on_mesh, static_argnums=static)

    return Steps(
        prefill=compiled(prefill, (lane,), lane),
        prefill_prefix=compiled(prefill_prefix, (whole, whole), state),
        extend=compiled(extend, (lane, state, whole), lane),
        extend_prefix=compiled(extend_prefix, (whole, state, whole, whole), state, static=(5,)),
        read=compiled(read, (lane, lane), lane),
    )
