"""How many weights a model has, from the headers of its files. Importing this does not import jax."""

import json
import math
import struct
from pathlib import Path

from isoprefill.models.source import ModelSource

MOST_HEADER_BYTES = 100 << 20  # safetensors' own limit


def number_of_weights(source: ModelSource) -> int:
    """Returns the elements of all tensors; 0 if the files cannot be read, which their loader reports better."""
    try:
        if source.kind == "directory":
            return sum(map(_in_safetensors, source.path.glob("*.safetensors")))
        from isoprefill.models.gguf_header import read_header

        return sum(math.prod(tensor.shape) for tensor in read_header(source.path).tensors.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        return 0


def _in_safetensors(path: Path) -> int:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(size, MOST_HEADER_BYTES)))
    return sum(
        math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
    )
