"""Loads a model from a GGUF file or several, in any quantisation that the `gguf` package can undo."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES

from isoprefill.models.config import rope_gguf
from isoprefill.models.config.architectures import ARCHITECTURES, gguf_model_type
from isoprefill.models.config.classes import classes_from_gguf
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.config_gguf import config_from_gguf
from isoprefill.models.config.parameters import PARAMETERS
from isoprefill.models.files.checkpoint import (
    Checkpoint,
    LazyTensor,
    bfloat16_tensors,
    scaled_tensors,
)
from isoprefill.models.files.finite import check_finite
from isoprefill.models.files.gguf_header import GgufHeader, TensorInfo
from isoprefill.models.files.gguf_integers import READERS, scaled_integers
from isoprefill.models.files.lora import LoraAdapter
from isoprefill.models.weights.assembly import ParamsDtype, WeightBytes, assemble
from isoprefill.models.weights.params import Params
from isoprefill.models.weights.scaled_integers import ScaledIntegers
from isoprefill.models.weights.stored_tensors import fused_names

_NOT_USED_BY_LLAMA_CPP = r"blk\.\d+\.attn_rot_embd(\.weight)?"
_CLASS_HEAD = PARAMETERS["class_head"].gguf
_ROWS_JOINED = 16
_GGUF_NAMES = {
    parameter.huggingface: parameter.gguf
    for parameter in PARAMETERS.values()
    if "{expert}" not in parameter.huggingface  # of which a GGUF file has one tensor for all
}


def load_gguf(
    header: GgufHeader,
    dtype: ParamsDtype,
    adapter: LoraAdapter | None = None,
    check_memory: Callable[[WeightBytes], None] | None = None,
) -> tuple[ModelConfig, Params]:
    """Reads the configuration and the weights.

    Args:
        header: of all files, from `gguf_split.read_headers`.
        dtype: dtype of the parameters.
        adapter: what to add to the weights.
        check_memory: is told what the weights will take before there is memory for them.

    Raises:
        ValueError: the architecture is not supported, the adapter is not for this model, or a tensor is missing, has
            the wrong shape, has no place in the model, is stored in a quantisation that cannot be undone or is not
            finite; names it.
    """
    architecture = ARCHITECTURES[gguf_model_type(header.metadata)]
    paths = {info.path for info in header.tensors.values()}
    stored = {path: np.memmap(path, np.uint8, mode="r") for path in paths}
    rope_tensors = {
        name: tuple(_dequantise(stored, header.tensors[name]).tolist())
        for name in rope_gguf.tensors_of(architecture)
        if name in header.tensors
    }
    shapes = {name: info.shape for name, info in header.tensors.items()}
    if len(shapes.get(_CLASS_HEAD, (0, 0))) < 2:  # the format leaves out outer axes of size 1
        shapes[_CLASS_HEAD] = (1, *shapes[_CLASS_HEAD])
    stored_names = _GGUF_NAMES | (fused_names() if architecture.fused_projections else {})
    hub_names = {stored_name: name for name, stored_name in stored_names.items()}
    saved = adapter.saved if adapter else ()
    names = shapes.keys() | {_renamed(name, stored_names) for name in saved}
    config = config_from_gguf(header.metadata, names, rope_tensors)
    if _CLASS_HEAD in shapes:
        config = dataclasses.replace(
            config,
            classes=classes_from_gguf(header.metadata, shapes[_CLASS_HEAD][0]),
            class_bias=PARAMETERS["class_bias"].gguf in shapes,
        )
    interleaved = {}
    if architecture.gguf_interleaves_heads:
        interleaved = {"attn_q": config.num_query_heads, "attn_k": config.num_kv_heads}

    def read_stored(name: str) -> np.ndarray:
        values = _dequantise(stored, header.tensors[name]).reshape(shapes[name])
        heads = interleaved.get(name.split(".")[-2])  # "blk.0.attn_q.weight"
        return values if heads is None else _undo_interleaving(values, heads)

    def read_integers(name: str) -> ScaledIntegers:
        info = header.tensors[name]
        blocks = _bytes_of(stored, info).reshape(-1, GGML_QUANT_SIZES[info.quantization][1])
        integers = scaled_integers(blocks, info.quantization, shapes[name])
        heads = interleaved.get(name.split(".")[-2])
        if heads is None:
            return integers
        return integers.rows(_undo_interleaving(np.arange(len(integers.integers)), heads))

    checkpoint: Checkpoint = {
        name: LazyTensor(
            shape,
            functools.partial(read_stored, name),
            dtype=header.tensors[name].quantization.name,
            read_scaled=functools.partial(read_integers, name)
            if header.tensors[name].quantization in READERS and len(shape) > 1
            else None,
        )
        for name, shape in shapes.items()
    }
    if adapter is not None:
        named = {_renamed(name, hub_names): tensor for name, tensor in checkpoint.items()}
        merged = adapter.merged_into(named)
        checkpoint = {_renamed(name, stored_names): tensor for name, tensor in merged.items()}

    def read(name: str) -> np.ndarray:
        return check_finite(name, checkpoint[name].read(), dtype)

    sizes = {name: tensor.shape for name, tensor in checkpoint.items()}
    ignored = [*rope_tensors, *([] if config.classes is None else [PARAMETERS["head"].gguf])]
    unused = "|".join([_NOT_USED_BY_LLAMA_CPP, *map(re.escape, ignored)])
    params = assemble(
        config,
        "gguf",
        unused,
        sizes,
        read,
        dtype,
        scaled=scaled_tensors(checkpoint, read),
        in_bfloat16=bfloat16_tensors(checkpoint),
        check_memory=check_memory,
    )
    return config, params


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """Returns the other name of a tensor, by templates with "{layer}"; the name itself if it has no other."""
    numbers = re.findall(r"\.(\d+)\.", name)
    if len(numbers) != 1:
        return names.get(name, name)
    template = names.get(name.replace(f".{numbers[0]}.", ".{layer}."))
    return name if template is None else template.format(layer=numbers[0])


def _dequantise(stored: Mapping[Path, np.ndarray], info: TensorInfo) -> np.ndarray:
    """Returns a tensor's values from the bytes of its file."""
    rows = math.prod(info.shape[:-1])
    if not info.num_bytes:
        return np.empty(info.shape, np.float32)
    # The package takes 16 rows at a time, mostly overhead when rows are short: join some.
    values = _bytes_of(stored, info)
    values = values.reshape(rows // math.gcd(rows, _ROWS_JOINED), -1)
    try:
        return gguf.quants.dequantize(values, info.quantization).reshape(info.shape)
    except NotImplementedError as error:
        raise ValueError(
            f"tensor {info.name} is stored as {info.quantization.name}, which cannot be dequantised"
        ) from error


def _bytes_of(stored: Mapping[Path, np.ndarray], info: TensorInfo) -> np.ndarray:
    return stored[info.path][info.begin : info.begin + info.num_bytes]


def _undo_interleaving(values: np.ndarray, heads: int) -> np.ndarray:
    """Puts the rows of q or k into the order that `rope.rotate` pairs them: llama.cpp pairs neighbours."""
    return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
