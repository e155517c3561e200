"""transformers' own reading of a GGUF file, without what it does again and again.

It reads the file twice, and builds the table of all tensors' names anew for each module: half a minute for SmolLM2.
"""

import functools
from pathlib import Path
from typing import Any
from unittest import mock

import gguf
import numpy as np
import torch
import transformers
from gguf import GGUFReader


def model_by_transformers(path: Path, **options: Any) -> torch.nn.Module:
    """The language model of a GGUF file, float32, ready to compute."""
    with _read_once():
        return transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, **options
        ).eval()


def tokenizer_by_transformers(path: Path) -> Any:
    """The tokenizer of a GGUF file."""
    with _read_once():
        return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def _read_once() -> Any:
    return mock.patch.multiple(
        gguf,
        GGUFReader=_reader,
        get_tensor_name_map=functools.cache(gguf.get_tensor_name_map),
    )


@functools.cache
def _reader(path: Path) -> GGUFReader:
    # Slices of an array in memory are many times as fast as those of a file's map.
    with mock.patch.object(np, "memmap", lambda name, mode: np.fromfile(name, np.uint8)):
        return GGUFReader(path)
