"""How much memory a model's weights take, from the headers of its files. Importing this does not import jax."""

import contextlib
import math
from collections.abc import Iterator

from isoprefill.models.files.safetensors_checkpoint import open_safetensors, weight_files
from isoprefill.models.sources.source import ModelSource


def weight_bytes(source: ModelSource, dtype: str) -> int:
    """Returns the bytes of all weights in a dtype; 0 if the files cannot be read, which their loader reports better.

    float32 weights that are stored in bfloat16 are kept in two bytes (`models.packed_weights`).
    """
    try:
        return sum(
            numbers * (2 if dtype == "bfloat16" or stored == "BF16" else 4)
            for stored, numbers in _tensors(source)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return 0


def _tensors(source: ModelSource) -> Iterator[tuple[str, int]]:
    """Yields the type and the number of elements of each tensor."""
    if source.kind == "directory":
        with contextlib.ExitStack() as files:
            opened = open_safetensors(list(weight_files(source.path)), files)
            yield from ((tensor.dtype, math.prod(tensor.shape)) for tensor in opened.values())
        return
    for tensor in source.gguf_header.tensors.values():
        yield tensor.quantization.name, math.prod(tensor.shape)
