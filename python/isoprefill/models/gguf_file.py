"""Loads a model from a GGUF file, in any quantisation that the `gguf` package can undo."""

import math
import re
from pathlib import Path

import gguf
import numpy as np

from isoprefill.models import rope_gguf
from isoprefill.models.architectures import ARCHITECTURES, gguf_model_type
from isoprefill.models.assembly import ParamsDtype, assemble
from isoprefill.models.config import ModelConfig
from isoprefill.models.config_gguf import config_from_gguf
from isoprefill.models.gguf_header import GgufHeader, TensorInfo
from isoprefill.models.params import Params

_NOT_USED_BY_LLAMA_CPP = r"blk\.\d+\.attn_rot_embd(\.weight)?"
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
    architecture = ARCHITECTURES[gguf_model_type(header.metadata.get("general.architecture"))]
    stored = np.memmap(path, np.uint8, mode="r")
    rope_tensors = {
        name: tuple(_dequantise(stored, header.tensors[name]).tolist())
        for name in rope_gguf.tensors_of(architecture)
        if name in header.tensors
    }
    config = config_from_gguf(header.metadata, header.tensors, rope_tensors)
    interleaved = {}
    if architecture.gguf_interleaves_heads:
        interleaved = {"attn_q": config.num_query_heads, "attn_k": config.num_kv_heads}

    def read(name: str) -> np.ndarray:
        values = _dequantise(stored, header.tensors[name])
        heads = interleaved.get(name.split(".")[-2])  # "blk.0.attn_q.weight"
        return values if heads is None else _undo_interleaving(values, heads)

    unused = "|".join([_NOT_USED_BY_LLAMA_CPP, *map(re.escape, rope_tensors)])
    shapes = {name: info.shape for name, info in header.tensors.items()}
    return config, assemble(config, "gguf", unused, shapes, read, dtype)


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
