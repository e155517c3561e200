"""PyTorch, as bench_cpu measures it. Imports the library when it is made."""

import contextlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from bench_cpu.implementation import MATMULS, Dtype, Item
from bench_cpu.workloads import LABELS, Kind
from isoprefill.host.threads import usable_threads

# The method of `isoprefill_torch.TorchScorer`, where the way is not called by it.
_METHODS = {"dense": "isolated-dense", "compiled": "isolated-dense", "warm_query": "extend"}
_BATCH_SIZES = {
    "batched": (2, 8, 32),
    "extend": (16, 64, 256),
    "warm_query": (16, 64, 256),
}
# The fastest of those tried: weights are packed for the products, whose kernels are chosen by their times.
_COMPILED = {"freezing": True, "max_autotune": True, "cpp_wrapper": True}


def has_compiler() -> bool:
    """Returns whether there is a C++ compiler, which torch.compile needs."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


class TorchPeer:
    """One way of PyTorch at its best: inference mode, all cores, the head only where it is read."""

    def __init__(self, way: str, dtype: Dtype, model: str) -> None:
        """Loads the model.

        With "compiled", the decoder is compiled for each length of a request; with "warm_query", the query's keys and
        values are kept from one call to the next. flex_attention is compiled if there is a C++ compiler.
        """
        import torch

        from isoprefill.models.config.config_huggingface import config_from_huggingface
        from isoprefill_torch.model import load_model
        from isoprefill_torch.scorer import TorchScorer

        torch.set_num_threads(usable_threads())
        self._scorer = TorchScorer(
            load_model(model, dtype), compile_flex=has_compiler(), keep_prefix=way == "warm_query"
        )
        decoder = self._scorer.model.torch_model
        if way == "compiled":
            if not has_compiler():
                raise RuntimeError("torch.compile needs a C++ compiler, and there is none")
            # torch.compile's own `options` do not reach the part that freezes.
            for option, value in _COMPILED.items():
                setattr(torch._inductor.config, option, value)
            decoder.base_model.compile(dynamic=False)
        self._compiles = way in (
            "compiled",
            "flex",
        )  # else the compiler's memory is not for this row
        self._method: Any = _METHODS.get(way, way)
        self._dtype = getattr(torch, dtype)
        self.config = config_from_huggingface(decoder.config.to_dict())
        self.batch_sizes: tuple[int, ...] = _BATCH_SIZES.get(way, ())
        self.batch_size: int | None = None

    def as_vectors(self, items: list[list[int]]) -> list[Item]:
        """Does as `Implementation` says: it takes tokens."""
        return [*items]

    def score(self, query: list[int], items: list[Item], kind: Kind) -> np.ndarray:
        """Returns log-probabilities: items by labels, or items."""
        labels = list(LABELS) if kind == "labels" else None
        return self._scorer.logprobs(
            query, items, labels, method=self._method, batch_size=self.batch_size
        )

    def matmuls(self, rows: int, outer: int, inner: int) -> Callable[[], Any]:
        """Does as `Implementation` says."""
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

    def compiles_nothing(self) -> contextlib.AbstractContextManager[Any]:
        """Does as `Implementation` says."""
        if not self._compiles:
            return contextlib.nullcontext()
        import torch

        stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance(
            "fail_on_recompile"
        )
        return stance
