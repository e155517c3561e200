"""How much memory a model's weights take, from the headers of its files. Importing this does not import jax."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

from isoprefill.models.source import ModelSource

MOST_HEADER_BYTES = 100 << 20  # safetensors' own limit


def weight_bytes(source: ModelSource, dtype: str) -> int:
    """Returns the bytes of all weights in a dtype; 0 if the files cannot be read, which their loader reports better.

    float32 weights that are stored in bfloat16 are kept in two bytes (`models.packed_weights`).
    """
    try:
        return sum(
            numbers * (2 if dtype == "bfloat16" or stored == "BF16" else 4)
            for stored, numbers in _tensors(source)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        return 0


def _tensors(source: ModelSource) -> Iterator[tuple[str, int]]:
    """Yields the type and the number of elements of each tensor."""
    if source.kind == "directory":
        for path in source.path.glob("*.safetensors"):
            yield from _in_safetensors(path)
        return
    from isoprefill.models.gguf_split import read_headers

    for tensor in read_headers(source.path).tensors.values():
        yield tensor.quantization.name, math.prod(tensor.shape)


def _in_safetensors(path: Path) -> Iterator[tuple[str, int]]:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(size, MOST_HEADER_BYTES)))
    for name, tensor in header.items():
        if name != "__metadata__":
            yield tensor["dtype"], math.prod(tensor["shape"])
