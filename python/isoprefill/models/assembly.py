"""Puts a checkpoint's tensors together as the decoder's parameters.

A checkpoint holds one tensor per layer under a name of its own; the decoder wants all layers of a kind stacked. Each
file format reads one tensor at a time; this does the rest. On a CPU it packs matrices as it reads them, so that there
is never a second copy of them all.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import isoprefill_csrc
from isoprefill.models.config import ModelConfig
from isoprefill.models.packed_weights import PackedWeights, packed_shape
from isoprefill.models.parameters import parameters_of
from isoprefill.models.params import Params

ParamsDtype = Literal["float32", "bfloat16"]

# By field: what may be done about a tensor that is missing.
_REMEDIES = {
    "head": ", and the configuration says that the head is not the embedding: get the file that holds it, or, if the "
    "model was trained with a tied head, set tie_word_embeddings to true in config.json"
}
_ALIGNMENT = 64  # bytes; an array that begins so can become a JAX array on a CPU without a copy


def assemble(
    config: ModelConfig,
    names: Mapping[str, str],
    unused: str,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    dtype: ParamsDtype,
) -> Params:
    """Reads all parameters of a model.

    Args:
        config: sizes and switches; they say which tensors there must be, and of what shape.
        names: for each of `PARAMETERS` the tensor's name, with "{layer}" in the layer's place.
        unused: regular expression of further names that a file may have and no parameter is read from.
        shapes: of every tensor in the checkpoint, by name.
        read: reads a tensor's values, of any floating-point dtype. Called from several threads at once.
        dtype: dtype of the parameters.

    Raises:
        ValueError: a tensor is missing, has another shape than the configuration says, or has no place in the model;
            names it.
    """
    packed = jax.default_backend() == "cpu"
    # On a CPU, bfloat16 is stored as its bits (`isoprefill.bits`).
    stored_dtype = np.dtype(np.uint16) if packed and dtype == "bfloat16" else jnp.dtype(dtype)
    arrays: dict[str, np.ndarray | PackedWeights] = {}
    matrices: set[str] = set()  # the tensors that are packed
    parts: list[tuple[np.ndarray, str]] = []  # what to fill, and the tensor to fill it from

    def fill(part: np.ndarray, tensor: str) -> None:
        values = read(tensor)
        if packed:
            values = np.ascontiguousarray(values, jnp.dtype(dtype)).view(stored_dtype)
        if tensor in matrices:
            isoprefill_csrc.pack_weights(values, part)
        else:
            part[...] = values

    for field, parameter in parameters_of(config).items():
        shape = parameter.shape(config)
        tensors = []
        # One by one: a damaged file may claim billions of layers, and the first is missing.
        for layer in range(config.num_layers if parameter.stacked else 1):
            tensor = names[field].format(layer=layer)
            expected = shape[1:] if parameter.stacked else shape
            if tensor not in shapes:
                raise ValueError(f"tensor {tensor} is missing{_REMEDIES.get(field, '')}")
            if shapes[tensor] != expected:
                raise ValueError(
                    f"tensor {tensor} must have shape {list(expected)}, as the model's configuration says, "
                    f"got {list(shapes[tensor])}"
                )
            tensors.append(tensor)
        packs = packed and parameter.is_matrix
        array = _aligned_empty(packed_shape(shape) if packs else shape, stored_dtype)
        arrays[field] = PackedWeights(array, *shape[-2:]) if packs else array
        parts.extend(zip(array if parameter.stacked else [array], tensors, strict=True))
        matrices |= set(tensors) if packs else set()
    planned = {tensor for _, tensor in parts}
    for tensor in shapes:
        # Ignoring a bias or a scale would compute a different model.
        if tensor not in planned and not re.fullmatch(unused, tensor):
            raise ValueError(
                f"tensor {tensor} is not supported: a {config.architecture} model with this configuration has no "
                "such parameter"
            )
    # Largest first: their temporary copies are gone before the other arrays take memory.
    parts.sort(key=lambda part: part[0].nbytes, reverse=True)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for filled in [threads.submit(fill, *part) for part in parts]:
            filled.result()

    return Params.from_fields(jax.device_put(arrays))


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    num_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % _ALIGNMENT
    return buffer[begin : begin + num_bytes].view(dtype).reshape(shape)
