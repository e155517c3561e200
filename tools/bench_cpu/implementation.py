"""What bench_cpu asks of everything that it measures."""

import contextlib
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np

from bench_cpu.workloads import Kind
from isoprefill.models.config.config import ModelConfig

MATMULS = 8
Dtype = Literal["float32", "bfloat16"]
Item = list[int] | np.ndarray
DTYPES: list[Dtype] = ["float32", "bfloat16"]


class Implementation(Protocol):
    """One way to score requests, with a model that is loaded.

    Attributes:
        config: of the model.
        batch_sizes: what to choose `batch_size` from; empty if there is no choice.
        batch_size: items computed together; all if None.
    """

    config: ModelConfig
    batch_sizes: tuple[int, ...]
    batch_size: int | None

    def score(self, query: list[int], items: list[Item], kind: Kind) -> np.ndarray:
        """Returns log-probabilities: items by labels, or items."""

    def as_vectors(self, items: list[list[int]]) -> list[Item]:
        """Returns the embeddings of items' tokens, or the tokens if it takes no embeddings: the same work."""

    def matmuls(self, rows: int, outer: int, inner: int) -> Callable[[], Any] | None:
        """Returns a call that multiplies [rows, inner] by [outer, inner]^T, and that by [inner, outer]^T, in turn.

        There are MATMULS products, as in a model: a single one would also pay for the memory of its output. None if
        the library offers no products.
        """

    def compiles_nothing(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context in which a compilation is an error, if the library can tell."""
