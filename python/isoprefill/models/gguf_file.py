"""Loads a model from a GGUF file, in any quantisation that the `gguf` package can undo."""

import dataclasses
import math
import re
from pathlib import Path

import gguf
import numpy as np

from isoprefill.models.architectures import ARCHITECTURES
from isoprefill.models.assembly import ParamsDtype, assemble
from isoprefill.models.classes import classes_from_gguf
from isoprefill.models.config import ModelConfig
from isoprefill.models.config_gguf import config_from_gguf
from isoprefill.models.gguf_header import GgufHeader, TensorInfo
from isoprefill.models.parameters import PARAMETERS
from isoprefill.models.params import Params

_NAMES = {field: parameter.gguf for field, parameter in PARAMETERS.items()}
# The first is in the configuration (`frequency_divisors`); llama.cpp does not use the other either.
_UNUSED = r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd(\.weight)?"
_CLASS_HEAD = PARAMETERS["class_head"].gguf
_ROPE_DIVISORS = "rope_freqs.weight"
_ROWS_JOINED = 16


def load_gguf(path: Path, header: GgufHeader, dtype: ParamsDtype) -> tuple[ModelConfig, Params]:
    """Reads the configuration and the weights.

    Args:
        path: the file.
        header: its header, from `gguf_header.read_header`.
        dtype: dtype of the parameters.

    Raises:
        ValueError: the architecture is not supported, or a tensor is missing, has the wrong shape, has no place in the
            model or is stored in a quantisation that cannot be undone; names it.
    """
    stored = np.memmap(path, np.uint8, mode="r")
    divisors = None
    if _ROPE_DIVISORS in header.tensors:
        divisors = tuple(_dequantise(stored, header.tensors[_ROPE_DIVISORS]).tolist())
    shapes = {name: info.shape for name, info in header.tensors.items()}
    if len(shapes.get(_CLASS_HEAD, (0, 0))) < 2:  # the format leaves out outer axes of size 1
        shapes[_CLASS_HEAD] = (1, *shapes[_CLASS_HEAD])
    config = config_from_gguf(header.metadata, shapes, divisors)
    if _CLASS_HEAD in shapes:
        config = dataclasses.replace(
            config,
            classes=classes_from_gguf(header.metadata, shapes[_CLASS_HEAD][0]),
            class_bias=_NAMES["class_bias"] in shapes,
        )
    interleaved = {}
    if ARCHITECTURES[config.architecture].gguf_interleaves_heads:
        interleaved = {"attn_q": config.num_query_heads, "attn_k": config.num_kv_heads}

    def read(name: str) -> np.ndarray:
        values = _dequantise(stored, header.tensors[name]).reshape(shapes[name])
        heads = interleaved.get(name.split(".")[-2])  # "blk.0.attn_q.weight"
        return values if heads is None else _undo_interleaving(values, heads)

    unused = _UNUSED if config.classes is None else f"{_UNUSED}|{re.escape(_NAMES['head'])}"
    return config, assemble(config, _NAMES, unused, shapes, read, dtype)


def _dequantise(stored: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Returns a tensor's values from the bytes of the file."""
    stored = stored[info.begin : info.begin + info.num_bytes]
    # The package takes 16 rows at a time, mostly overhead when rows are short: join some.
    rows = math.prod(info.shape[:-1])
    stored = stored.reshape(rows // math.gcd(rows, _ROWS_JOINED), -1)
    try:
        return gguf.quants.dequantize(stored, info.quantization).reshape(info.shape)
    except NotImplementedError as error:
        raise ValueError(
            f"tensor {info.name} is stored as {info.quantization.name}, which cannot be dequantised"
        ) from error


def _undo_interleaving(values: np.ndarray, heads: int) -> np.ndarray:
    """Puts the rows of q or k into the order that `rope.rotate` pairs them: llama.cpp pairs neighbours."""
    return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
