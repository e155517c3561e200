"""Our engine and PyTorch, as bench_cpu measures them. Each imports its library when it is made."""

import shutil
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from bench_cpu.workloads import LABELS, Kind

MATMULS = 8
Dtype = Literal["float32", "bfloat16"]
DTYPES: list[Dtype] = ["float32", "bfloat16"]

OURS = ("packed", "packed_extend", "prefill_extend", "serial", "auto")
PEERS = ("serial", "batched", "extend", "dense", "flex")
NAMES = tuple(f"ours-{way}" for way in OURS) + tuple(f"torch-{way}" for way in PEERS)
# Their time is linear in the number of items.
ITEM_BY_ITEM = ("ours-serial", "torch-serial", "torch-batched")


class Ours:
    """One algorithm of the engine; the prefix cache is empty at every call."""

    batch_sizes: tuple[int, ...] = ()

    def __init__(self, algorithm: Any, dtype: Dtype, model: str) -> None:
        from isoprefill import ScoringEngine

        self._engine = ScoringEngine.from_pretrained(model, dtype)
        self._algorithm, self._dtype = algorithm, dtype
        self.config = self._engine.model.config

    def score(self, query: list[int], items: list[list[int]], kind: Kind) -> np.ndarray:
        """Returns log-probabilities: items by labels, or items."""
        self._engine.clear_prefix_cache()
        labels = list(LABELS) if kind == "labels" else None
        return self._engine.score(query, items, labels, algorithm=self._algorithm).logprobs

    def matmuls(self, rows: int, outer: int, inner: int) -> Callable[[], Any]:
        """Returns a call that multiplies [rows, inner] by [outer, inner]^T, and that by [inner, outer]^T, in turn.

        There are MATMULS products, as in a model: a single one would also pay for the memory of its output.
        """
        import jax
        import jax.numpy as jnp

        from isoprefill.models.decoder import project

        @jax.jit
        def multiply(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
            for weight in (up, down) * (MATMULS // 2):
                x = project(x, weight).astype(weight.dtype)
            return x

        x = jnp.ones((rows, inner), self._dtype)
        up = jnp.full((outer, inner), 1 / inner, self._dtype)
        down = jnp.full((inner, outer), 1 / outer, self._dtype)
        return lambda: jax.block_until_ready(multiply(x, up, down))


class Peer:
    """One method of PyTorch at its best: inference mode, all cores, the head only where it is read."""

    def __init__(self, method: str, dtype: Dtype, model: str) -> None:
        """Loads the model. flex_attention is compiled if there is a C++ compiler."""
        import torch

        from isoprefill.models.config_huggingface import config_from_huggingface
        from isoprefill_torch.model import load_model
        from isoprefill_torch.scorer import TorchScorer

        compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
        self._scorer = TorchScorer(load_model(model, dtype), compile_flex=compiler)
        self._method: Any = "isolated-dense" if method == "dense" else method
        self._dtype = getattr(torch, dtype)
        self.batch_sizes = {"batched": (2, 8, 32), "extend": (16, 64, 256)}.get(method, ())
        self.batch_size: int | None = None  # all at once
        self.config = config_from_huggingface(self._scorer.model.torch_model.config.to_dict())

    def score(self, query: list[int], items: list[list[int]], kind: Kind) -> np.ndarray:
        """Returns log-probabilities: items by labels, or items."""
        labels = list(LABELS) if kind == "labels" else None
        return self._scorer.logprobs(
            query, items, labels, method=self._method, batch_size=self.batch_size
        )

    def matmuls(self, rows: int, outer: int, inner: int) -> Callable[[], Any]:
        """Does what `Ours.matmuls` does."""
        import torch

        ones = torch.ones(rows, inner, dtype=self._dtype)
        up = torch.full((outer, inner), 1 / inner, dtype=self._dtype)
        down = torch.full((inner, outer), 1 / outer, dtype=self._dtype)

        def multiply() -> Any:
            x = ones
            with torch.inference_mode():
                for weight in (up, down) * (MATMULS // 2):
                    x = torch.nn.functional.linear(x, weight)
            return x

        return multiply


def contestant(name: str, dtype: Dtype, model: str) -> Ours | Peer:
    """Makes the implementation of that name: "ours-" and an algorithm, or "torch-" and a method."""
    library, _, way = name.partition("-")
    return (Ours if library == "ours" else Peer)(way, dtype, model)
