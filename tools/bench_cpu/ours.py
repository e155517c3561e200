"""Our engine, as bench_cpu measures it. Imports the library when it is made."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bench_cpu.implementation import MATMULS, Dtype, Item
from bench_cpu.workloads import LABELS, Kind


class Ours:
    """One algorithm of the engine. The prefix cache is empty at every call, unless the query is warm."""

    def __init__(self, algorithm: Any, dtype: Dtype, model: str, *, warm: bool = False) -> None:
        """Loads the model."""
        from isoprefill import ScoringEngine

        self._engine = ScoringEngine.from_pretrained(model, dtype)
        self._algorithm, self._dtype, self._warm = algorithm, dtype, warm
        self.config = self._engine.model.config
        self.batch_sizes: tuple[int, ...] = ()
        self.batch_size: int | None = None

    def as_vectors(self, items: list[list[int]]) -> list[Item]:
        """Does as `Implementation` says."""
        from isoprefill.models.weights.packed_weights import PackedWeights, unpack

        weights: Any = self._engine.model.params.embedding
        if isinstance(weights, PackedWeights):
            weights = unpack(weights)
        rows = np.asarray(weights)
        if rows.dtype == np.uint16:  # the bits of bfloat16
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        return [rows[item].astype(np.float32) for item in items]

    def score(self, query: list[int], items: list[Item], kind: Kind) -> np.ndarray:
        """Returns log-probabilities: items by labels, or items."""
        if not self._warm:
            self._engine.clear_prefix_cache()
        labels = list(LABELS) if kind == "labels" else None
        return self._engine.score(query, items, labels, algorithm=self._algorithm).logprobs

    def matmuls(self, rows: int, outer: int, inner: int) -> Callable[[], Any]:
        """Does as `Implementation` says."""
        import jax
        import jax.numpy as jnp

        from isoprefill.models.decoder.decoder import project
        from isoprefill.models.weights.packed_weights import PackedWeights, pack

        @jax.jit
        def multiply(x: jax.Array, up: PackedWeights, down: PackedWeights) -> jax.Array:
            for weight in (up, down) * (MATMULS // 2):
                x = project(x, weight).astype(weight.dtype)
            return x

        x = jnp.ones((rows, inner), self._dtype)
        up = pack(np.full((outer, inner), 1 / inner, jnp.dtype(self._dtype)))
        down = pack(np.full((inner, outer), 1 / outer, jnp.dtype(self._dtype)))
        return lambda: jax.block_until_ready(multiply(x, up, down))

    def compiles_nothing(self) -> contextlib.AbstractContextManager[Any]:
        """Does as `Implementation` says."""
        return contextlib.nullcontext()
