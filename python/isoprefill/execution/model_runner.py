"""A model on its devices: its weights, its compiled functions, and packs side by side on the data shards.

Letters: see forward.py. Each data shard computes one pack: their arrays are stacked along a leading axis D, which is 1
without a mesh.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Float32, Int32, Shaped

from isoprefill.attention import AttentionHeads
from isoprefill.attention.layout import PackedLayout, with_schedules
from isoprefill.attention.padding import bucket_size, next_power_of_two
from isoprefill.execution.forward import Forward, PackInputs, PrefixState, ReadoutInputs
from isoprefill.execution.mesh import (
    DATA,
    KEYS_AND_VALUES,
    TENSOR,
    MeshShape,
    make_mesh,
    param_specs,
    shard_params,
)
from isoprefill.execution.packing import Rows, joined_rows
from isoprefill.execution.prefix_cache import CachedPrefix
from isoprefill.execution.readout import Readout
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.weights.params import Params
from isoprefill.models.weights.storage import as_stored
from isoprefill.modes import Backend

SHARDED, REPLICATED = PartitionSpec(DATA), PartitionSpec()
STATE = PrefixState._make((KEYS_AND_VALUES, KEYS_AND_VALUES, REPLICATED))

_Tree = TypeVar("_Tree")


class Functions(NamedTuple):
    """The functions of `Forward`, compiled for all data shards side by side.

    Packs, read-outs, hidden states and log-probabilities have the axis D; a prefix is the same on every data shard.
    """

    hidden_states: Callable[..., Float[Array, "D T E"]]
    prefix: Callable[..., PrefixState]
    read: Callable[..., Float[Array, "D M K"]]
    class_logits: Callable[..., Float[Array, "D M C"]]
    states: Callable[..., Float[Array, "D M E"]]


@functools.cache  # two engines with one model share their compilations
def compiled_functions(config: ModelConfig, attention: Backend, mesh: Mesh | None) -> Functions:
    """Returns the functions for a model, an attention back end and a mesh (None: the default device)."""
    forward = Forward(config, attention, 1 if mesh is None else mesh.shape[TENSOR])
    compiled = functools.partial(_compiled, mesh)
    return Functions(
        compiled(forward.hidden_states, (SHARDED, STATE, REPLICATED), SHARDED),
        compiled(forward.prefix, (REPLICATED, STATE, REPLICATED, REPLICATED), STATE, static=(5,)),
        compiled(forward.read, (SHARDED, SHARDED), SHARDED),
        compiled(forward.class_logits, (SHARDED, SHARDED), SHARDED),
        compiled(forward.states, (SHARDED, SHARDED), SHARDED),
    )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ModelRunner:
    """Weights where they are used, and the functions that use them.

    Attributes:
        params: weights, sharded over the mesh if there is one.
        config: sizes and switches of the model.
        attention: back end.
        mesh: devices; None is JAX's default device.
        functions: compiled functions.
    """

    params: Params
    config: ModelConfig
    attention: Backend
    mesh: Mesh | None
    functions: Functions

    @classmethod
    def load(
        cls, params: Params, config: ModelConfig, attention: Backend, shape: MeshShape | None
    ) -> "ModelRunner":
        """Puts a model on a mesh, or leaves it on the default device.

        Raises:
            ValueError: if the devices or the model's heads do not allow the mesh; with the numbers. Or if the model
                is to have attention sinks, and there are none.
        """
        if config.attention_sinks and params.layers.sinks is None:
            raise ValueError(
                "attention_sinks needs the sinks' weights, but params.layers.sinks is None"
            )
        params = as_stored(params)
        mesh = None if shape is None else make_mesh(shape, config)
        if mesh is not None:
            params = shard_params(params, mesh)
        return cls(params, config, attention, mesh, compiled_functions(config, attention, mesh))

    @property
    def data_shards(self) -> int:
        """Packs that are computed side by side."""
        return 1 if self.mesh is None else self.mesh.shape[DATA]

    def hidden_states(
        self,
        rows: Sequence[Rows],
        layouts: Sequence[PackedLayout],
        prefix: CachedPrefix | None,
    ) -> Float[Array, "D T E"] | Float[Array, "D T+1 E"]:
        """Computes the hidden states of up to D packs.

        Args:
            rows: of each pack, without padding.
            layouts: of the packs, padded alike. Over a prefix S = P + T, or more if items share tokens (`column_rows`).
            prefix: what the packs follow, if it is cached. Its last row is then appended to each pack's.
        """
        state, length = (None, 0) if prefix is None else (prefix.state, prefix.tokens.size)
        packs = self._packs(rows, layouts)
        if any(layout.shares_tokens for layout in layouts):
            packs = [
                pack._replace(column_rows=_column_rows(layout, prefix))
                for pack, layout in zip(packs, layouts, strict=True)
            ]
        stacked = _stack(packs, self.data_shards)
        return self.functions.hidden_states(self.params, stacked, state, np.int32(length))

    def prefix(
        self, prefix: Rows, begun: CachedPrefix | None = None, reused: int = 0
    ) -> CachedPrefix:
        """Computes a prefix, or what follows its first `reused` tokens, which `begun` has."""
        tokens = prefix.tokens
        new = joined_rows([prefix._replace(tokens=tokens[reused:])])
        size = new.tokens.size
        rows = bucket_size(size)
        if begun is None:
            state, layout = None, PackedLayout.from_lengths(tokens.size, [], pad_to=rows)
        else:
            state = begun.state
            layout = PackedLayout.from_lengths(
                reused,
                [size],
                cached_prefix=True,
                pad_to=rows,
                pad_columns_to=begun.num_columns + rows,
            )
        (pack,) = self._packs([new], [layout])
        last_row, columns = np.int32(size - 1), bucket_size(tokens.size)
        state = self.functions.prefix(self.params, pack, state, np.int32(reused), last_row, columns)
        return CachedPrefix(tokens, state)

    def prefix_bytes(self, num_tokens: int) -> int:
        """Returns what a prefix of so many tokens takes in the cache (`CachedPrefix.num_bytes`)."""
        config = self.config
        column = 2 * config.num_layers * config.num_kv_heads * config.head_dim
        numbers = column * bucket_size(num_tokens) + config.hidden_size
        return numbers * self.params.dtype.itemsize

    def read(
        self, hidden: Float[Array, "D T E"], readouts: Sequence[Readout]
    ) -> list[Float[np.ndarray, "M K"]]:
        """Computes the log-probabilities of each pack's read-out; its row -1 is the last hidden row."""
        count = bucket_size(max(readout.rows.size for readout in readouts))
        width = next_power_of_two(max(readout.token_ids.shape[1] for readout in readouts))
        inputs = [
            ReadoutInputs(
                _padded(readout.rows % hidden.shape[1], count),
                np.asarray(readout.rows.size, np.int32),
                _padded(readout.token_ids, count, width),
            )
            for readout in readouts
        ]
        stacked = _stack(inputs, self.data_shards)
        logprobs = np.asarray(self.functions.read(self.params, hidden, stacked))
        return [
            of_pack[: readout.rows.size, : readout.token_ids.shape[1]]
            for readout, of_pack in zip(readouts, logprobs, strict=False)
        ]

    def class_logits(
        self, hidden: Float[Array, "D T E"], rows: Sequence[Int32[np.ndarray, "m"]]
    ) -> list[Float[np.ndarray, "m C"]]:
        """Computes the logits of all classes at some rows of each pack, if the model has classes."""
        return self._at_rows(self.functions.class_logits, hidden, rows)

    def states(
        self, hidden: Float[Array, "D T E"], rows: Sequence[Int32[np.ndarray, "m"]]
    ) -> list[Float[np.ndarray, "m E"]]:
        """Returns the hidden states at some rows of each pack."""
        return self._at_rows(self.functions.states, hidden, rows)

    def _at_rows(
        self,
        function: Callable[..., Float[Array, "D M N"]],
        hidden: Float[Array, "D T E"],
        rows: Sequence[Int32[np.ndarray, "m"]],
    ) -> list[Float[np.ndarray, "m N"]]:
        count = bucket_size(max(of_pack.size for of_pack in rows))
        padded = [_padded(of_pack, count) for of_pack in rows]
        found = np.asarray(function(self.params, hidden, _stack(padded, self.data_shards)))
        return [of[: of_pack.size] for of_pack, of in zip(rows, found, strict=False)]

    def _packs(self, rows: Sequence[Rows], layouts: Sequence[PackedLayout]) -> list[PackInputs]:
        """Returns packs with the schedules that the attention of one device needs, all of one kind."""
        tensor_shards = 1 if self.mesh is None else self.mesh.shape[TENSOR]
        heads = AttentionHeads(
            self.config.num_query_heads // tensor_shards,
            self.config.num_kv_heads // tensor_shards,
            self.config.head_dim,
            self.params.dtype.name,
        )
        scheduled = [
            with_schedules(
                layouts if window is None else [one.with_window(window) for one in layouts],
                self.attention,
                heads,
            )
            for window in self.config.windows
        ]
        width = self.config.hidden_size
        counts = [0 if one.vectors is None else len(one.vectors) for one in rows]
        number = bucket_size(max(counts))
        return [
            PackInputs(
                _padded(one.tokens, of_kinds[0].num_rows),
                np.asarray(one.tokens.size, np.int32),
                of_kinds[0],
                of_kinds[1] if len(of_kinds) > 1 else None,
                _padded_vectors(one.vectors, number, width) if number else None,
            )
            for one, *of_kinds in zip(rows, *scheduled, strict=True)
        ]


def _column_rows(layout: PackedLayout, prefix: CachedPrefix | None) -> Int32[np.ndarray, "C"]:
    """Returns which row each column after the prefix holds; padding, which nobody sees, holds the first."""
    begin, of_prefix = (0, 0) if prefix is None else (prefix.tokens.size, prefix.num_columns)
    after = layout.column_rows[begin : begin + layout.num_columns - of_prefix]
    return np.maximum(after, 0)


def _padded(array: Int32[np.ndarray, "..."], *shape: int) -> Int32[np.ndarray, "..."]:
    """Returns the array with zeros at the end of each axis."""
    return np.pad(array, [(0, size - have) for size, have in zip(shape, array.shape, strict=True)])


def _padded_vectors(
    vectors: Float32[np.ndarray, "r E"] | None, number: int, width: int
) -> Float32[np.ndarray, "R E"]:
    """Returns vectors with zeros after them."""
    out = np.zeros((number, width), np.float32)
    if vectors is not None:
        out[: len(vectors)] = vectors
    return out


def _stack(trees: Sequence[_Tree], shards: int) -> _Tree:
    """Returns trees as one with a leading axis of `shards`; for what is missing it repeats the first."""
    trees = [*trees, *[trees[0]] * (shards - len(trees))]

    def stacked(*leaves: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "D ..."]:
        # A schedule that needs more than its usual capacity is longer than the others.
        longest = [max(lengths) for lengths in zip(*(leaf.shape for leaf in leaves), strict=True)]
        out = np.zeros((shards, *longest), leaves[0].dtype)
        for shard, leaf in enumerate(leaves):
            index: Any = (shard, *(slice(length) for length in leaf.shape))
            out[index] = leaf
        return out

    return jax.tree.map(stacked, *trees)


def _compiled(
    mesh: Mesh | None,
    function: Callable[..., Any],
    specs: tuple[Any, ...],
    out_spec: Any,
    static: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Compiles a function of (params, …) for one shard as one for all of them.

    Args:
        mesh: the devices that the shards lie on.
        function: loses the leading axis of arguments with the spec `SHARDED`.
        specs: of the traced arguments after params.
        out_spec: of the result.
        static: places of the arguments that are fixed in a compilation.
    """

    def on_mesh(params: Params, *arguments: Any) -> Any:
        traced, fixed = arguments[: len(specs)], arguments[len(specs) :]

        def on_shard(params: Params, *traced: Any) -> Any:
            inside = [
                jax.tree.map(lambda array: array[0], argument) if spec is SHARDED else argument
                for argument, spec in zip(traced, specs, strict=True)
            ]
            result = function(params, *inside, *fixed)
            return result[None] if out_spec is SHARDED else result

        if mesh is None:
            return on_shard(params, *traced)
        given = [
            None if argument is None else spec for argument, spec in zip(traced, specs, strict=True)
        ]
        mapped = jax.shard_map(
            on_shard,
            mesh=mesh,
            in_specs=(param_specs(params), *given),
            out_specs=out_spec,
            check_vma=False,  # the head's loop has another length on each device
        )
        return mapped(params, *traced)

    on_mesh.__name__ = function.__name__
    return jax.jit(on_mesh, static_argnums=static)
