"""How much memory a model's weights take, from the headers of its files. Importing this does not import jax."""

import contextlib
import math
from collections.abc import Iterator

from isoprefill.models.files.gguf_integers import KEPT_AS_INTEGERS
from isoprefill.models.files.packed_nibbles import PER_INTEGER, QWEIGHT
from isoprefill.models.files.safetensors_checkpoint import open_safetensors, weight_files
from isoprefill.models.sources.source import ModelSource

_NIBBLES = "I4"  # of AWQ and GPTQ, eight in an integer
_KEPT_AS_INTEGERS = KEPT_AS_INTEGERS | {_NIBBLES}


def weight_bytes(source: ModelSource, dtype: str) -> int:
    """Returns the bytes of all weights in a dtype; 0 if the files cannot be read, which their loader reports better.

    float32 weights that are stored in bfloat16 are kept in two bytes (`models.weights.packed_weights`), and those of
    most GGUF quantisations, of AWQ and of GPTQ in one and a half, where there is no room for more
    (`models.weights.scaled_integers`).
    """
    try:
        return int(sum(numbers * _bytes_of(stored, dtype) for stored, numbers in _tensors(source)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return 0


def _bytes_of(stored: str, dtype: str) -> float:
    """Returns the bytes of a weight."""
    if dtype == "bfloat16" or stored == "BF16":
        return 2
    return 1.5 if stored in _KEPT_AS_INTEGERS else 4


def _tensors(source: ModelSource) -> Iterator[tuple[str, int]]:
    """Yields the type and the number of elements of each tensor."""
    if source.kind == "directory":
        with contextlib.ExitStack() as files:
            opened = open_safetensors(list(weight_files(source.path)), files)
            for name, tensor in opened.items():
                numbers = math.prod(tensor.shape)
                if name.endswith(QWEIGHT):
                    yield _NIBBLES, PER_INTEGER * numbers
                else:
                    yield tensor.dtype, numbers
        return
    for info in source.gguf_header.tensors.values():
        yield info.quantization.name, math.prod(info.shape)
