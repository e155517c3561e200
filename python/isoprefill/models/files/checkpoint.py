"""Tensors that are read one by one, by name: what files hold, or what follows from that."""

import dataclasses
import functools
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
        dtype: what safetensors or GGUF call the dtype in the file, such as "F8_E4M3" or "Q4_1".
        read_scaled: reads a matrix, or several below each other, as what it is stored as; None: it is not stored so.
    """

    shape: tuple[int, ...]
    read: Callable[[], Shaped[np.ndarray, "..."]]
    dtype: str = "F32"
    read_scaled: Callable[[], ScaledIntegers] | None = None


Checkpoint = Mapping[str, LazyTensor]

# Dtypes in files whose every number is a bfloat16, exactly.
_BFLOAT16 = ("BF16", "MXFP4")


def bfloat16_tensors(checkpoint: Checkpoint) -> frozenset[str]:
    """Returns the names of the tensors whose numbers are bfloat16."""
    return frozenset(name for name, tensor in checkpoint.items() if tensor.dtype in _BFLOAT16)


def scaled_tensors(
    checkpoint: Checkpoint, read: Callable[[str], np.ndarray]
) -> dict[str, Callable[[], ScaledIntegers]]:
    """Returns, by name, what reads the integers and scales of the tensors that are stored so.

    Args:
        checkpoint: what there is.
        read: reads a tensor's values, by name, and raises an error for values that are not finite.
    """
    return {
        name: functools.partial(_finite, name, tensor.read_scaled, read)
        for name, tensor in checkpoint.items()
        if tensor.read_scaled is not None
    }


def _finite(
    name: str, read_scaled: Callable[[], ScaledIntegers], read: Callable[[str], np.ndarray]
) -> ScaledIntegers:
    integers = read_scaled()
    if not integers.is_finite():
        read(name)  # says what is not
    return integers
