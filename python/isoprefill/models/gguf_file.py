"""Loads a model from a GGUF file, in any quantisation that the `gguf` package can undo."""

import math
from pathlib import Path

import gguf
import numpy as np

from isoprefill.models.architectures import ARCHITECTURES
from isoprefill.models.assembly import ParamsDtype, assemble
from isoprefill.models.config import ModelConfig
from isoprefill.models.config_gguf import config_from_gguf
from isoprefill.models.decoder import Params
from isoprefill.models.gguf_header import GgufHeader
from isoprefill.models.parameters import PARAMETERS

_NAMES = {field: parameter.gguf for field, parameter in PARAMETERS.items()}
# The first is in the configuration (`frequency_divisors`); llama.cpp does not use the other either.
_UNUSED = r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd(\.weight)?"
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
    reader = _GgufReader(path, header)
    divisors = None
    if _ROPE_DIVISORS in header.tensors:
        divisors = tuple(reader.read(_ROPE_DIVISORS).tolist())
    config = config_from_gguf(header.metadata, header.tensors, divisors)
    if ARCHITECTURES[config.architecture].gguf_interleaves_heads:
        reader.interleaved_heads = {"attn_q": config.num_query_heads, "attn_k": config.num_kv_heads}
    return config, assemble(config, _NAMES, _UNUSED, reader, dtype)


class _GgufReader:
    """Dequantises tensors of one file.

    Attributes:
        interleaved_heads: number of heads in the tensors whose rows `read` puts in the order that `rope.rotate` pairs
            them; llama.cpp pairs neighbours (2i, 2i + 1) in some architectures, and its converter reorders the rows.
    """

    def __init__(self, path: Path, header: GgufHeader) -> None:
        self._bytes = np.memmap(path, np.uint8, mode="r")
        self._tensors = header.tensors
        self.shapes = {name: info.shape for name, info in header.tensors.items()}
        self.interleaved_heads: dict[str, int] = {}

    def read(self, name: str) -> np.ndarray:
        info = self._tensors[name]
        stored = self._bytes[info.begin : info.begin + info.num_bytes]
        # The package takes 16 rows at a time, mostly overhead when rows are short: join some.
        rows = math.prod(info.shape[:-1])
        stored = stored.reshape(rows // math.gcd(rows, _ROWS_JOINED), -1)
        try:
            values = gguf.quants.dequantize(stored, info.quantization).reshape(info.shape)
        except NotImplementedError as error:
            raise ValueError(
                f"tensor {name} is stored as {info.quantization.name}, which cannot be dequantised"
            ) from error
        heads = self.interleaved_heads.get(name.split(".")[-2])  # "blk.0.attn_q.weight"
        if heads is None:
            return values
        interleaved = values.reshape(heads, -1, 2, *info.shape[1:])
        return interleaved.swapaxes(1, 2).reshape(info.shape)
