"""Matrices of weights as a CPU reads them: csrc/packed_weights.h.

They are packed once, when a model is loaded. A packed matrix knows its sizes, which its padded array does not say.

A float32 weight that came from bfloat16, or from a few bits and a scale, is exactly one bfloat16 or the sum of two. It
is kept as these parts where products are faster with them; the numbers are the same. Those of a quantised checkpoint
may be kept as its integers and scales (`scaled_integers`).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

import isoprefill_csrc
from isoprefill.host.threads import usable_threads
from isoprefill.models.weights.scaled_integers import ScaledIntegers

_ALIGNMENT = 64  # bytes

PANEL, STEP = isoprefill_csrc.PANEL_COLUMNS, isoprefill_csrc.INNER_STEP
SCALED_INTEGERS = isoprefill_csrc.SCALED_INTEGERS  # instead of a number of parts


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["data"],
    meta_fields=["columns", "inner", "parts"],
)
@dataclasses.dataclass(frozen=True, slots=True)
class PackedWeights:
    """A matrix [M, N], or such a matrix of each layer [L, M, N].

    Attributes:
        data: [M / 16, N / 32, 512], rounded up, with an axis L before if there are layers; float32, or uint16: bfloat16
            as its bits. With two parts the last axis is 1024; of scaled integers the array is uint8, with 768.
        columns: M, the columns of the product of rows with it.
        inner: N.
        parts: of float32 weights: how many bfloat16 each is kept as, 1 or 2; 0 if it is kept as it is; or
            SCALED_INTEGERS.
    """

    data: Shaped[Array | np.ndarray, "*L panels steps elements"]
    columns: int
    inner: int
    parts: int = 0

    @property
    def dtype(self) -> jnp.dtype:
        """Of the weights: float32 or bfloat16."""
        narrow = self.data.dtype == jnp.uint16 and not self.parts
        return jnp.dtype(jnp.bfloat16 if narrow else jnp.float32)

    @property
    def stacked(self) -> "PackedWeights":
        """The same with an axis of one layer, unless there is one."""
        if self.data.ndim == 4:
            return self
        return dataclasses.replace(self, data=self.data[None])


def packed_shape(shape: tuple[int, ...], *, scaled: bool = False) -> tuple[int, ...]:
    """Returns the shape of `PackedWeights.data` for weights of a shape [M, N] or [L, M, N], in one part or `scaled`."""
    *layers, columns, inner = shape
    step = isoprefill_csrc.SCALED_STEP_BYTES if scaled else PANEL * STEP
    return (*layers, -(-columns // PANEL), -(-inner // STEP), step)


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


def pack_scaled_into(weights: ScaledIntegers, data: Shaped[np.ndarray, "..."]) -> None:
    """Packs one matrix, or several below each other, into a uint8 array of `packed_shape`."""
    matrices = data.reshape(-1, *data.shape[-3:])
    rows = weights.shape[0] // len(matrices)
    for index, packed in enumerate(matrices):
        weights.rows(slice(index * rows, (index + 1) * rows)).pack_into(packed)


def in_parts(matrices: Sequence[PackedWeights]) -> list[PackedWeights]:
    """Returns matrices with each weight as one bfloat16, or as two, if that is exact for all and products gain by it.

    Args:
        matrices: float32 in NumPy arrays, which may be overwritten, or bfloat16 or scaled integers, which stay what
            they are.
    """
    if any(weights.data.dtype != np.float32 for weights in matrices):
        return list(matrices)
    fewest = 1
    with ThreadPoolExecutor(usable_threads()) as threads:
        for weights in matrices:
            for parts in threads.map(isoprefill_csrc.parts_of_panels, _some_panels(weights.data)):
                if parts == 0:
                    return list(matrices)
                fewest = max(fewest, parts)
        if fewest == 2 and not isoprefill_csrc.multiplies_parts():
            return list(matrices)
        return [_split(weights, fewest, threads) for weights in matrices]


def _split(weights: PackedWeights, parts: int, threads: ThreadPoolExecutor) -> PackedWeights:
    floats = np.asarray(weights.data)
    shape = (*floats.shape[:-1], PANEL * STEP * parts)
    two = parts == 2  # as large as what they are parts of, so they take its place
    data = floats.view(np.uint16) if two else aligned_empty(shape, np.dtype(np.uint16))
    list(threads.map(isoprefill_csrc.split_panels, _some_panels(floats), _some_panels(data)))
    return PackedWeights(data, weights.columns, weights.inner, parts)


def _some_panels(data: Shaped[Array | np.ndarray, "*L panels steps elements"]) -> list[np.ndarray]:
    panels = np.asarray(data).reshape(-1, *data.shape[-2:])
    return [panels[begin : begin + 64] for begin in range(0, len(panels), 64)]


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> Shaped[np.ndarray, "..."]:
    """Returns an array that can become a JAX array on a CPU without a copy."""
    num_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % _ALIGNMENT
    return buffer[begin : begin + num_bytes].view(dtype).reshape(shape)


def unpack(weights: PackedWeights) -> Shaped[np.ndarray, "*L M N"]:
    """Returns the matrix that was packed; bfloat16 as its bits."""
    data = np.asarray(weights.data)
    dtype = np.float32 if weights.parts else data.dtype
    out = np.empty((*data.shape[:-3], weights.columns, weights.inner), dtype)
    matrices = out.reshape(-1, weights.columns, weights.inner)
    for packed, matrix in zip(data.reshape(-1, *data.shape[-3:]), matrices, strict=True):
        isoprefill_csrc.unpack_weights(packed, matrix, weights.parts)
    return out


def _bits(weights: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    return weights.view(np.uint16) if weights.dtype == jnp.bfloat16 else weights
