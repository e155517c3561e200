"""Puts a checkpoint's tensors together as the decoder's parameters.

A checkpoint holds one tensor per layer under a name of its own; the decoder wants all layers of a
kind stacked. Each file format says what its tensors are called (`TensorNames`) and reads one at a
time (`TensorReader`); this does the rest.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol, get_args

import jax
import ml_dtypes
import numpy as np

from isoprefill.models.config import ModelConfig
from isoprefill.models.decoder import LayerParams, Params

ParamsDtype = Literal["float32", "bfloat16"]

_ALIGNMENT = 64  # bytes; an array that begins so can become a JAX array on a CPU without a copy


@dataclasses.dataclass(frozen=True, slots=True)
class TensorNames:
    """What a file format calls the tensors.

    Attributes:
        embedding: name of the embedding.
        final_norm: name of the norm after the last layer.
        head: name of the head, when it is not tied.
        layers: for each field of `LayerParams`, the name with "{layer}" in the layer's place.
        unused: regular expression of further names that a file may have and no parameter is read from.
    """

    embedding: str
    final_norm: str
    head: str
    layers: Mapping[str, str]
    unused: str


class TensorReader(Protocol):
    """An open checkpoint."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor in the checkpoint, by name."""

    def read(self, name: str) -> np.ndarray:
        """The tensor's values, of any floating-point dtype. Called from several threads at once."""


def assemble(
    config: ModelConfig, names: TensorNames, reader: TensorReader, dtype: ParamsDtype
) -> Params:
    """Reads all parameters of a model.

    Args:
        config: sizes and switches; they say which tensors there must be, and of what shape.
        names: what the format calls them.
        reader: the open checkpoint.
        dtype: dtype of the parameters.

    Raises:
        ValueError: a tensor is missing, has another shape than the configuration says, or has no
            place in the model; names it.
    """
    check_dtype(dtype)
    array_dtype = np.dtype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
    arrays: dict[str, np.ndarray] = {}
    parts: list[tuple[np.ndarray, str]] = []  # what to fill, and the tensor to fill it from

    def plan(field: str, shape: tuple[int, ...], wanted: Iterable[str]) -> None:
        tensors = []
        for tensor in wanted:
            _check_tensor(reader, tensor, shape)
            tensors.append(tensor)
        stacked = _aligned_empty((len(tensors), *shape), array_dtype)
        parts.extend(zip(stacked, tensors, strict=True))
        arrays[field] = stacked

    def fill(part: np.ndarray, tensor: str) -> None:
        part[...] = reader.read(tensor)

    for field, shape in layer_shapes(config).items():
        template = names.layers[field]
        # Not a list: a damaged file may claim billions of layers, and the first is missing.
        plan(field, shape, (template.format(layer=layer) for layer in range(config.num_layers)))
    layer_fields = list(arrays)
    plan("embedding", (config.vocab_size, config.hidden_size), [names.embedding])
    plan("final_norm", (config.hidden_size,), [names.final_norm])
    if not config.tied_head:
        plan("head", (config.vocab_size, config.hidden_size), [names.head])
    _check_nothing_left(config, names, reader, {tensor for _, tensor in parts})
    # Largest first: their temporary copies are gone before the other arrays take memory.
    parts.sort(key=lambda part: part[0].nbytes, reverse=True)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for filled in [threads.submit(fill, *part) for part in parts]:
            filled.result()

    singles = {field: array[0] for field, array in arrays.items() if field not in layer_fields}
    on_device: dict[str, jax.Array] = jax.device_put(singles)
    layers: dict[str, jax.Array] = jax.device_put({field: arrays[field] for field in layer_fields})
    return Params(layers=LayerParams(**layers), **on_device)


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's parameters, for those fields of `LayerParams` that the model has."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query = config.num_query_heads * config.head_dim
    key = config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "attention_norm": (hidden,),
        "query": (query, hidden),
        "key": (key, hidden),
        "value": (key, hidden),
        "output": (hidden, query),
        "feed_forward_norm": (hidden,),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }
    if config.qkv_bias:
        shapes |= {"query_bias": (query,), "key_bias": (key,), "value_bias": (key,)}
    if config.output_bias:
        shapes |= {"output_bias": (hidden,)}
    if config.qk_norm:
        shapes |= {"query_norm": (config.head_dim,), "key_norm": (config.head_dim,)}
    return shapes


def check_dtype(dtype: str) -> None:
    """Raises ValueError unless parameters can have this dtype."""
    if dtype not in get_args(ParamsDtype):
        raise ValueError(f"dtype must be one of {get_args(ParamsDtype)}, got {dtype!r}")


def _check_tensor(reader: TensorReader, name: str, shape: tuple[int, ...]) -> None:
    found = reader.shapes.get(name)
    if found is None:
        raise ValueError(f"tensor {name} is missing")
    if tuple(found) != shape:
        raise ValueError(
            f"tensor {name} must have shape {list(shape)}, as the model's configuration says, "
            f"got {list(found)}"
        )


def _check_nothing_left(
    config: ModelConfig, names: TensorNames, reader: TensorReader, planned: set[str]
) -> None:
    """Raises ValueError if a tensor is left over: without its bias or scale a model is another one."""
    for name in reader.shapes:
        if name not in planned and not re.fullmatch(names.unused, name):
            raise ValueError(
                f"tensor {name} is not supported: with this configuration a {config.architecture} "
                "model has no place for it"
            )


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    num_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % _ALIGNMENT
    return buffer[begin : begin + num_bytes].view(dtype).reshape(shape)
