"""Tensors that are read one by one, by name: what files hold, or what follows from that."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Shaped

from isoprefill.models.weights.scaled_integers import ScaledIntegers


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LazyTensor:
    """A tensor that has not been read yet.

    Attributes:
        shape: its sizes.
        read: reads its values. May be called from several threads at once.
        dtype: what safetensors call the dtype in the file, such as "F8_E4M3".
        read_scaled: reads a matrix, or several below each other, as what it is stored as; None: it is not stored so.
    """

    shape: tuple[int, ...]
    read: Callable[[], Shaped[np.ndarray, "..."]]
    dtype: str = "F32"
    read_scaled: Callable[[], ScaledIntegers] | None = None


Checkpoint = Mapping[str, LazyTensor]
