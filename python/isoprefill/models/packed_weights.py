"""Matrices of weights as a CPU reads them: csrc/packed_weights.h.

They are packed once, when a model is loaded. A packed matrix knows its sizes, which its padded array does not say.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

import isoprefill_csrc

PANEL, STEP = isoprefill_csrc.PANEL_COLUMNS, isoprefill_csrc.INNER_STEP


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["data"], meta_fields=["columns", "inner"]
)
@dataclasses.dataclass(frozen=True, slots=True)
class PackedWeights:
    """A matrix [M, N], or such a matrix of each layer [L, M, N].

    Attributes:
        data: [M / 16, N / 32, 512], rounded up, with an axis L before if there are layers; float32, or uint16: bfloat16
            as its bits.
        columns: M, the columns of the product of rows with it.
        inner: N.
    """

    data: Shaped[Array | np.ndarray, "*L panels steps 512"]
    columns: int
    inner: int

    @property
    def dtype(self) -> jnp.dtype:
        """Of the weights: float32 or bfloat16."""
        return jnp.dtype(jnp.bfloat16 if self.data.dtype == jnp.uint16 else self.data.dtype)

    @property
    def stacked(self) -> "PackedWeights":
        """The same with an axis of one layer, unless there is one."""
        if self.data.ndim == 4:
            return self
        return PackedWeights(self.data[None], self.columns, self.inner)


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of `PackedWeights.data` for weights of a shape [M, N] or [L, M, N]."""
    *layers, columns, inner = shape
    return (*layers, -(-columns // PANEL), -(-inner // STEP), PANEL * STEP)


def pack(weights: Shaped[np.ndarray, "*L M N"]) -> PackedWeights:
    """Packs float32 or bfloat16, one matrix or those of all layers."""
    bits = _bits(np.ascontiguousarray(weights))
    data = np.empty(packed_shape(weights.shape), bits.dtype)
    pack_into(bits, data)
    return PackedWeights(jax.device_put(data), *weights.shape[-2:])


def pack_into(weights: Shaped[np.ndarray, "*L M N"], data: Shaped[np.ndarray, "..."]) -> None:
    """Packs into an array of `packed_shape`; both are float32 or bits of bfloat16."""
    matrices = weights.reshape(-1, *weights.shape[-2:])
    for matrix, packed in zip(matrices, data.reshape(-1, *data.shape[-3:]), strict=True):
        isoprefill_csrc.pack_weights(matrix, packed)


def unpack(weights: PackedWeights) -> Shaped[np.ndarray, "*L M N"]:
    """Returns the matrix that was packed; bfloat16 as its bits."""
    data = np.asarray(weights.data)
    out = np.empty((*data.shape[:-3], weights.columns, weights.inner), data.dtype)
    matrices = out.reshape(-1, weights.columns, weights.inner)
    for packed, matrix in zip(data.reshape(-1, *data.shape[-3:]), matrices, strict=True):
        isoprefill_csrc.unpack_weights(packed, matrix)
    return out


def _bits(weights: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    return weights.view(np.uint16) if weights.dtype == jnp.bfloat16 else weights
