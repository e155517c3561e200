"""Loads a model from a GGUF file, in any quantisation that the `gguf` package can undo."""

import math
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from isoprefill.models.assembly import ParamsDtype, TensorNames, assemble
from isoprefill.models.config import ModelConfig
from isoprefill.models.config_gguf import config_from_gguf
from isoprefill.models.decoder import Params
from isoprefill.models.gguf_header import GgufHeader

_NAMES = TensorNames(
    embedding="token_embd.weight",
    final_norm="output_norm.weight",
    head="output.weight",
    layers={
        "attention_norm": "blk.{layer}.attn_norm.weight",
        "query": "blk.{layer}.attn_q.weight",
        "key": "blk.{layer}.attn_k.weight",
        "value": "blk.{layer}.attn_v.weight",
        "output": "blk.{layer}.attn_output.weight",
        "feed_forward_norm": "blk.{layer}.ffn_norm.weight",
        "gate": "blk.{layer}.ffn_gate.weight",
        "up": "blk.{layer}.ffn_up.weight",
        "down": "blk.{layer}.ffn_down.weight",
        "query_bias": "blk.{layer}.attn_q.bias",
        "key_bias": "blk.{layer}.attn_k.bias",
        "value_bias": "blk.{layer}.attn_v.bias",
        "output_bias": "blk.{layer}.attn_output.bias",
        "query_norm": "blk.{layer}.attn_q_norm.weight",
        "key_norm": "blk.{layer}.attn_k_norm.weight",
    },
    # The first is in the configuration (`frequency_divisors`); llama.cpp does not use the other either.
    unused=r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd(\.weight)?",
)
_ROPE_DIVISORS = "rope_freqs.weight"
_ROWS_JOINED = 16


def load_gguf(path: Path, header: GgufHeader, dtype: ParamsDtype) -> tuple[ModelConfig, Params]:
    """Reads the configuration and the weights.

    Args:
        path: the file.
        header: its header, from `gguf_header.read_header`.
        dtype: dtype of the parameters.

    Raises:
        ValueError: the architecture is not supported, or a tensor is missing, has the wrong shape,
            has no place in the model or is stored in a quantisation that cannot be undone; names it.
    """
    reader = _GgufReader(path, header)
    config = config_from_gguf(
        header.metadata,
        tied_head=_NAMES.head not in header.tensors,
        qkv_bias=_NAMES.layers["query_bias"].format(layer=0) in header.tensors,
        output_bias=_NAMES.layers["output_bias"].format(layer=0) in header.tensors,
        frequency_divisors=reader.frequency_divisors(),
    )
    if config.architecture == "llama":
        reader.undo_interleaving(config)
    return config, assemble(config, _NAMES, reader, dtype)


class _GgufReader:
    """Dequantises tensors of one file."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        self._bytes = np.memmap(path, np.uint8, mode="r")
        self._tensors = header.tensors
        self._interleaved_heads: dict[str, int] = {}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self._tensors.items()}

    def undo_interleaving(self, config: ModelConfig) -> None:
        """Makes `read` give rows of q and k in the order that `rope.rotate` pairs them.

        llama.cpp pairs neighbours (2i, 2i + 1) in models of its "llama" architecture, and its
        converter reorders the rows of q and k to suit. Other architectures are stored as they were.
        """
        self._interleaved_heads = {"attn_q": config.num_query_heads, "attn_k": config.num_kv_heads}

    def frequency_divisors(self) -> tuple[float, ...] | None:
        """The divisors of scaled RoPE (Llama 3), if the file has any."""
        if _ROPE_DIVISORS not in self._tensors:
            return None
        return tuple(self.read(_ROPE_DIVISORS).tolist())

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
        heads = self._interleaved_heads.get(name.split(".")[-2])  # "blk.0.attn_q.weight"
        if heads is None:
            return values
        interleaved = values.reshape(heads, -1, 2, *info.shape[1:])
        return interleaved.swapaxes(1, 2).reshape(info.shape)
