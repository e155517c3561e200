"""Puts a checkpoint's tensors together as the decoder's parameters.

A checkpoint holds one tensor per layer under a name of its own; the decoder wants all layers of a kind stacked. Each
file format reads one tensor at a time; this does the rest. On a CPU it packs matrices as it reads them, so that there
is never a second copy of them all.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
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


@dataclasses.dataclass(frozen=True, slots=True)
class WeightBytes:
    """The memory that a model's weights take once they are loaded.

    Attributes:
        num_bytes: in the dtype that was asked for. What is the sum of two bfloat16 takes no less than floats.
        in_bfloat16: in bfloat16, for comparison.
    """

    num_bytes: int
    in_bfloat16: int


def assemble(
    config: ModelConfig,
    file_format: FileFormat,
    unused: str,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    dtype: ParamsDtype,
    *,
    scaled: Mapping[str, Callable[[], ScaledIntegers]] = MappingProxyType({}),
    in_bfloat16: Container[str] = (),
    check_memory: Callable[[WeightBytes], None] | None = None,
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
        in_bfloat16: tensors whose numbers are bfloat16: in float32, too, a CPU keeps these in two bytes.
        check_memory: is told what the weights will take, before there is memory for them, and may raise.

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
    as_scaled: frozenset[str] = frozenset()
    as_bfloat16: frozenset[str] = frozenset()
    if packs and dtype == "float32":
        as_scaled = _matrices_stored_in(scaled, config, names)
        as_bfloat16 = _matrices_stored_in(in_bfloat16, config, names)
        if not keeps_integers(_num_bytes(config, dtype, packs, frozenset(), as_bfloat16)):
            as_scaled = frozenset()
    if check_memory is not None:
        needed = _num_bytes(config, dtype, packs, as_scaled, as_bfloat16)
        check_memory(WeightBytes(needed, _num_bytes(config, "bfloat16", packs)))
    arrays, parts = _memory(config, stored, names, dtype, packs, as_scaled)
    _fill(arrays, parts, read, scaled)
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


def _together(field: str) -> tuple[str, ...]:
    """Returns the fields that are read together with one, itself among them."""
    return next((fields for fields in _TOGETHER if field in fields), (field,))


def _matrices_stored_in(
    form: Container[str], config: ModelConfig, names: Mapping[str, list[str]]
) -> frozenset[str]:
    """Returns the matrices whose tensors are stored in a form, as all are that are read together with them."""
    return frozenset(
        field
        for field, parameter in parameters_of(config).items()
        if parameter.is_matrix
        and all(tensor in form for one in _together(field) for tensor in names.get(one, ()))
    )


def _num_bytes(
    config: ModelConfig,
    dtype: ParamsDtype,
    packs: bool,
    as_scaled: Container[str] = (),
    as_bfloat16: Container[str] = (),
) -> int:
    """Returns the bytes of all parameters; some matrices as integers and scales, or each weight as one bfloat16."""
    num_bytes = 0
    for field, parameter in parameters_of(config).items():
        kept = "bfloat16" if field in as_bfloat16 else dtype
        shape, stored_as = _array_layout(config, parameter, kept, packs, field in as_scaled)
        num_bytes += math.prod(shape) * stored_as.itemsize
    return num_bytes


def _array_layout(
    config: ModelConfig, parameter: Parameter, dtype: ParamsDtype, packs: bool, scaled: bool
) -> tuple[tuple[int, ...], np.dtype]:
    """Returns the shape and the dtype of a parameter's array."""
    shape = parameter.shape(config)
    if packs and parameter.is_matrix:
        shape = packed_shape(shape, scaled=scaled)
    if scaled:
        return shape, np.dtype(np.uint8)
    values_dtype = _values_dtype(parameter, dtype)
    # On a CPU, bfloat16 is stored as its bits (`isoprefill.bits`).
    bits = packs and values_dtype == jnp.bfloat16
    return shape, np.dtype(np.uint16) if bits else values_dtype


def _values_dtype(parameter: Parameter, dtype: ParamsDtype) -> np.dtype:
    return jnp.dtype(dtype if parameter.is_matrix else np.float32)


_Arrays = dict[str, np.ndarray | PackedWeights]  # by field
_Parts = dict[str, list["_Part"]]  # by the tensor to fill them from


def _memory(
    config: ModelConfig,
    stored: Mapping[str, StoredTensor],
    names: Mapping[str, list[str]],
    dtype: ParamsDtype,
    packs: bool,
    scaled: Container[str],
) -> tuple[_Arrays, _Parts]:
    """Returns memory for every parameter, and which tensor fills what of it.

    Args:
        stored: by field, how its tensors are stored.
        names: by field, its tensors.
        dtype: of the matrices.
        packs: whether matrices are packed.
        scaled: fields whose integers and scales are kept.
    """
    arrays: _Arrays = {}
    parts: _Parts = {}
    for field, parameter in parameters_of(config).items():
        shape, source, tensors = parameter.shape(config), stored[field], names[field]
        as_scaled = field in scaled
        packed = packs and parameter.is_matrix
        values_dtype = _values_dtype(parameter, dtype)
        array = aligned_empty(*_array_layout(config, parameter, dtype, packs, as_scaled))
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
    read_scaled: Mapping[str, Callable[[], ScaledIntegers]],
) -> None:
    """Reads all tensors into their parts of the arrays, and keeps matrices in parts where that is exact."""

    def fill(tensor: str) -> None:
        if all(part.as_scaled for part in parts[tensor]):
            integers = read_scaled[tensor]()
            for part in parts[tensor]:
                pack_scaled_into(integers.rows(part.rows), part.array)
            return
        values = read(tensor)
        for part in parts[tensor]:
            part.fill(values[part.rows])

    def fill_fields(fields: Sequence[str], threads: ThreadPoolExecutor) -> None:
        tensors = [tensor for tensor, of in parts.items() if of[0].field in fields]
        for filled in [threads.submit(fill, tensor) for tensor in tensors]:
            filled.result()
        for tensor in tensors:
            del parts[tensor]  # it holds what `in_parts` gives up
        matrices = {
            name: one for name in fields if isinstance(one := arrays.get(name), PackedWeights)
        }
        arrays.update(zip(matrices, in_parts(list(matrices.values())), strict=True))

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
            fill_fields(fields, threads)


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
