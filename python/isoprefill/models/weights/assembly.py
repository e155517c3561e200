"""Puts a checkpoint's tensors together as the decoder's parameters.

A checkpoint holds one tensor per layer under a name of its own; the decoder wants all layers of a kind stacked. Each
file format reads one tensor at a time; this does the rest. On a CPU it packs matrices as it reads them, so that there
is never a second copy of them all.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from isoprefill.host.threads import usable_threads
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.parameters import Parameter, parameters_of
from isoprefill.models.weights.packed_weights import (
    SCALED_INTEGERS,
    PackedWeights,
    aligned_empty,
    in_parts,
    pack_into,
    pack_scaled_into,
    packed_shape,
)
from isoprefill.models.weights.params import Params
from isoprefill.models.weights.scaled_integers import ScaledIntegers, keeps_integers
from isoprefill.models.weights.stored_tensors import FileFormat, StoredTensor, stored_tensors

ParamsDtype = Literal["float32", "bfloat16"]

# Fields that are read together: they may be rows of one tensor, and gate and up are multiplied together.
_TOGETHER = (("gate", "up"), ("expert_gate", "expert_up"), ("query", "key", "value"))
# By field: what may be done about a tensor that is missing.
_REMEDIES = {
    "head": ", and the configuration says that the head is not the embedding: get the file that holds it, or, if the "
    "model was trained with a tied head, set tie_word_embeddings to true in config.json"
}


def assemble(
    config: ModelConfig,
    file_format: FileFormat,
    unused: str,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    dtype: ParamsDtype,
    scaled: Mapping[str, Callable[[], ScaledIntegers]] = MappingProxyType({}),
) -> Params:
    """Reads all parameters of a model.

    Args:
        config: sizes and switches; they say which tensors there must be, and of what shape.
        file_format: which says how tensors are named.
        unused: regular expression of further names that a file may have and no parameter is read from.
        shapes: of every tensor in the checkpoint, by name.
        read: reads a tensor's values, of any floating-point dtype. Called from several threads at once.
        dtype: dtype of the matrices. Vectors are float32.
        scaled: reads the integers and scales of a tensor that is stored so, by name. In float32 a CPU may keep them.

    Raises:
        ValueError: a tensor is missing, has another shape than the configuration says, or has no place in the model;
            names it.
    """
    stored = stored_tensors(config, file_format)
    names = {
        field: _tensors(config, field, parameter, stored[field], shapes)
        for field, parameter in parameters_of(config).items()
    }
    _check_nothing_is_left(config, names, unused, shapes)
    packs = jax.default_backend() == "cpu"
    keeps: Mapping[str, Callable[[], ScaledIntegers]] = {}
    if packs and dtype == "float32":
        floats = sum(math.prod(shapes[tensor]) for tensor in scaled)
        keeps = scaled if keeps_integers(4 * floats) else {}
    arrays, parts = _memory(config, stored, names, dtype, packs, keeps)
    _fill(arrays, parts, read, keeps)
    return Params.from_fields(jax.device_put(arrays))


def _tensors(
    config: ModelConfig,
    field: str,
    parameter: Parameter,
    source: StoredTensor,
    shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    """Returns the names of a parameter's tensors.

    Raises:
        ValueError: one is missing, or has another shape.
    """
    tensors = []
    # One by one: a damaged file may claim thousands of layers, and the first is missing.
    for tensor in _tensor_names(config, parameter, source.name):
        if tensor not in shapes:
            raise ValueError(f"tensor {tensor} is missing{_REMEDIES.get(field, '')}")
        if shapes[tensor] != source.shape:
            raise ValueError(
                f"tensor {tensor} must have shape {list(source.shape)}, as the model's configuration says, "
                f"got {list(shapes[tensor])}"
            )
        tensors.append(tensor)
    return tensors


def _check_nothing_is_left(
    config: ModelConfig, names: Mapping[str, list[str]], unused: str, shapes: Iterable[str]
) -> None:
    """Raises ValueError if a tensor has no place: ignoring a bias or a scale would compute a different model."""
    used = {tensor for tensors in names.values() for tensor in tensors}
    for tensor in shapes:
        if tensor not in used and not re.fullmatch(unused, tensor):
            raise ValueError(
                f"tensor {tensor} is not supported: a {config.architecture} model with this configuration has no "
                "such parameter"
            )


_Arrays = dict[str, np.ndarray | PackedWeights]  # by field
_Parts = dict[str, list["_Part"]]  # by the tensor to fill them from


def _memory(
    config: ModelConfig,
    stored: Mapping[str, StoredTensor],
    names: Mapping[str, list[str]],
    dtype: ParamsDtype,
    packs: bool,
    keeps: Container[str],
) -> tuple[_Arrays, _Parts]:
    """Returns memory for every parameter, and which tensor fills what of it.

    Args:
        stored: by field, how its tensors are stored.
        names: by field, its tensors.
        dtype: of the matrices.
        packs: whether matrices are packed.
        keeps: tensors whose integers and scales may be kept.
    """
    arrays: _Arrays = {}
    parts: _Parts = {}
    for field, parameter in parameters_of(config).items():
        shape, source, tensors = parameter.shape(config), stored[field], names[field]
        together = next((fields for fields in _TOGETHER if field in fields), (field,))
        as_scaled = parameter.is_matrix and all(
            tensor in keeps for one in together for tensor in names.get(one, ())
        )
        packed = packs and parameter.is_matrix
        values_dtype = jnp.dtype(dtype if parameter.is_matrix else np.float32)
        # On a CPU, bfloat16 is stored as its bits (`isoprefill.bits`).
        bits = packs and values_dtype == jnp.bfloat16
        array = aligned_empty(
            packed_shape(shape, scaled=as_scaled) if packed else shape,
            np.dtype(np.uint8 if as_scaled else np.uint16 if bits else values_dtype),
        )
        kept = SCALED_INTEGERS if as_scaled else 0
        arrays[field] = PackedWeights(array, shape[-2], shape[-1], kept) if packed else array
        for part, tensor in zip(_split(array, len(tensors), source, shape), tensors, strict=True):
            parts.setdefault(tensor, []).append(
                _Part(field, part, source.rows, source.offset, values_dtype, packed, as_scaled)
            )
    return arrays, parts


def _fill(
    arrays: _Arrays,
    parts: _Parts,
    read: Callable[[str], np.ndarray],
    keeps: Mapping[str, Callable[[], ScaledIntegers]],
) -> None:
    """Reads all tensors into their parts of the arrays, and keeps matrices in parts where that is exact."""

    def fill(tensor: str) -> None:
        if all(part.as_scaled for part in parts[tensor]):
            integers = keeps[tensor]()
            for part in parts[tensor]:
                pack_scaled_into(integers.rows(part.rows), part.array)
            return
        values = read(tensor)
        for part in parts[tensor]:
            part.fill(values[part.rows])

    # The largest first: what they take beside their own size is gone before the others are read.
    alone = [(field,) for field in arrays if all(field not in fields for fields in _TOGETHER)]
    sizes = {
        fields: sum(
            part.array.nbytes for of in parts.values() for part in of if part.field in fields
        )
        for fields in (*_TOGETHER, *alone)
    }
    with ThreadPoolExecutor(usable_threads()) as threads:
        for fields in sorted(sizes, key=lambda fields: sizes[fields], reverse=True):
            tensors = [tensor for tensor, of in parts.items() if of[0].field in fields]
            for filled in [threads.submit(fill, tensor) for tensor in tensors]:
                filled.result()
            for tensor in tensors:
                del parts[tensor]  # it holds what `in_parts` gives up
            matrix = {
                name: one for name in fields if isinstance(one := arrays.get(name), PackedWeights)
            }
            arrays.update(zip(matrix, in_parts(list(matrix.values())), strict=True))


def _tensor_names(config: ModelConfig, parameter: Parameter, name: str) -> Iterator[str]:
    """Yields the names of a parameter's tensors: one, or one a layer, or one an expert of a layer."""
    experts = config.experts.number if config.experts is not None and "{expert}" in name else 1
    for layer in range(config.num_layers if parameter.stacked else 1):
        for expert in range(experts):
            yield name.format(layer=layer, expert=expert)


def _split(
    array: np.ndarray, parts: int, source: StoredTensor, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns an array as the parts that its tensors fill, along a new first axis in the place of those split."""
    return array.reshape(parts, *array.shape[len(shape) - len(source.shape) :])


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One parameter, or one layer's of it, and which rows of a tensor are to fill it."""

    field: str
    array: np.ndarray
    rows: slice
    offset: float
    dtype: np.dtype
    packs: bool
    as_scaled: bool

    def fill(self, values: np.ndarray) -> None:
        if self.offset:
            values = values.astype(np.float32) + np.float32(self.offset)
        values = np.ascontiguousarray(values, self.dtype).view(self.array.dtype)
        if self.packs:
            pack_into(values, self.array)
        else:
            self.array[...] = values
