"""A whole scoring step, from tokens to log-probabilities: the functions that the engine calls, and their arguments."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from isoprefill import PackedLayout
from isoprefill.attention.padding import bucket_size
from isoprefill.execution.forward import PackInputs, ReadoutInputs
from isoprefill.execution.mesh import TENSOR, param_specs
from isoprefill.execution.model_runner import SHARDED, compiled_functions
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.parameters import parameters_of
from isoprefill.models.weights.params import Params
from isoprefill.modes import Backend
from isoprefill_pallas.heads import AttentionHeads
from isoprefill_tpu_lab.packs import Pack

# What is read: two labels at each item's last row, or the likelihood of each of its tokens.
Readout = Literal["labels", "likelihoods"]
LABELS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class ScoringStep:
    """A step of a model on a pack.

    Attributes:
        layout: of the pack, padded as the engine does, with the schedule of its back end.
        read_rows: rows that are read, without padding.
        mesh: the devices that share out the weights; None is one.
    """

    config: ModelConfig
    backend: Backend
    layout: PackedLayout
    readout: Readout
    read_rows: int
    num_items: int
    mesh: Mesh | None = None

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        pack: Pack,
        readout: Readout,
        backend: Backend = "pallas",
        mesh: Mesh | None = None,
        **options: Any,
    ) -> "ScoringStep":
        """Makes the step of a pack's lengths; `options` are those of the back end's schedule."""
        shards = 1 if mesh is None else mesh.shape[TENSOR]
        layout = PackedLayout.concat(
            [
                PackedLayout.from_lengths(prefix, list(lens))
                for prefix, lens in zip(pack.prefix_lens, pack.item_lens, strict=True)
            ],
            pad_to=bucket_size(pack.layout.num_rows),
        )
        heads = AttentionHeads(
            config.num_query_heads // shards,
            config.num_kv_heads // shards,
            config.head_dim,
            pack.dtype,
        )
        if backend in ("pallas", "xla"):
            layout = layout.with_schedule(backend, heads=heads, **options)
        items = [length for lens in pack.item_lens for length in lens]
        rows = len(items) if readout == "labels" else sum(items)
        return cls(config, backend, layout, readout, rows, len(items), mesh)

    @property
    def inputs(self) -> tuple[PackInputs, ReadoutInputs]:
        """The pack and its read-out, for one data shard."""
        rows, count = self.layout.num_rows, bucket_size(self.read_rows)
        wanted = LABELS if self.readout == "labels" else 1
        rng = np.random.default_rng(0)

        def tokens(*shape: int) -> np.ndarray:
            return rng.integers(0, self.config.vocab_size, shape, np.int32)

        at = np.zeros(count, np.int32)
        at[: self.read_rows] = np.resize(np.asarray(self.layout.readout_rows), self.read_rows)
        shard = (
            PackInputs(tokens(rows), np.asarray(rows, np.int32), self.layout),
            ReadoutInputs(at, np.asarray(self.read_rows, np.int32), tokens(count, wanted)),
        )
        inputs: tuple[PackInputs, ReadoutInputs] = jax.tree.map(
            lambda x: np.asarray(x)[None], shard
        )
        return inputs

    def function(self) -> Callable[[Params, PackInputs, ReadoutInputs], jax.Array]:
        """Returns the step: of weights, pack and read-out the log-probabilities [1, M, K]."""
        functions = compiled_functions(self.config, self.backend, self.mesh)

        def score(params: Params, pack: PackInputs, readout: ReadoutInputs) -> jax.Array:
            hidden = functions.hidden_states(params, pack, None, np.int32(0))
            return functions.read(params, hidden, readout)

        return score

    def shapes(self, dtype: str) -> tuple[Params, PackInputs, ReadoutInputs]:
        """Returns the arguments of `function` as shapes, sharded over the mesh if there is one."""

        def shape(array: Any, spec: PartitionSpec | None) -> jax.ShapeDtypeStruct:
            sharding = None if self.mesh is None else NamedSharding(self.mesh, spec)
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

        weights = self.params(lambda sizes: jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype)))
        pack, readout = jax.tree.map(lambda array: shape(array, SHARDED), self.inputs)
        return jax.tree.map(shape, weights, param_specs(weights)), pack, readout

    def params(self, array: Callable[[tuple[int, ...]], Any]) -> Params:
        """Returns weights, each made from its shape."""
        parameters = parameters_of(self.config).items()
        return Params.from_fields(
            {field: array(row.shape(self.config)) for field, row in parameters}
        )
