"""Writes random models as GGUF files."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from gguf_conversion import GGUF_NAMES, converted_keys, converted_tensors


def save_gguf(
    model: torch.nn.Module,
    path: Path,
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    extra_metadata: dict[str, Any] | None = None,
    extra_tensors: dict[str, np.ndarray] | None = None,
    packed: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]] | None = None,
    leave_out: str | None = None,
) -> Path:
    """Writes a GGUF file with the names, order and head layout of llama.cpp's converter.

    Args:
        model: from `random_model`.
        path: the file to write.
        quantization: of the matrices; norms and biases are float32, as llama.cpp has them.
        extra_metadata: more key-value pairs; they win over the model's.
        extra_tensors: more tensors; they win over the model's.
        packed: the same as bytes of a quantisation.
        leave_out: name of a tensor to leave out.
    """
    arch = GGUF_NAMES.get(model.config.model_type, model.config.model_type)
    metadata = converted_keys(model.config, arch)
    writer = gguf.GGUFWriter(path, arch)
    for key, value in (metadata | (extra_metadata or {})).items():
        _add_metadata(writer, key, value)
    for name, values in (converted_tensors(model, arch) | (extra_tensors or {})).items():
        if name == leave_out or name in (packed or {}):
            continue
        # The router stays wide, and so do biases, of which each expert has a row.
        narrow = values.ndim > 1 and "ffn_gate_inp" not in name and not name.endswith(".bias")
        kind = quantization if narrow else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    for name, (values, kind) in (packed or {}).items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)
