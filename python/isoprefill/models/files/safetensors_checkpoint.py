"""The tensors of safetensors files."""

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from isoprefill.models.files.checkpoint import Checkpoint, LazyTensor
from isoprefill.models.files.json_file import read_json_object

# Dtypes that the library leaves to NumPy, which does not have them.
_EIGHT_BITS = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def weight_files(directory: Path) -> Iterator[Path]:
    """Yields the files that hold the weights of a Hugging Face directory.

    Raises:
        ValueError: the index is damaged, or a file is missing; names it.
    """
    index = directory / _INDEX
    if not index.is_file():
        if not (directory / _SINGLE).is_file():
            raise ValueError(f"{directory} has neither {_SINGLE} nor {_INDEX}")
        yield directory / _SINGLE
        return
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no weight_map")
    if not weight_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ValueError(f"{index}: weight_map must hold the name of a file for each tensor")
    for shard in sorted(set(weight_map.values())):
        path = directory / shard
        # A name with a folder in it could lead outside the directory.
        if Path(shard).name != shard or not path.is_file():
            raise ValueError(f"shard {shard} is missing from {directory}, but {_INDEX} names it")
        yield path


def open_safetensors(paths: Sequence[Path], files: contextlib.ExitStack) -> Checkpoint:
    """Opens files, until `files` closes.

    Raises:
        ValueError: a file cannot be read, or two hold a tensor of one name; names it.
    """
    tensors: dict[str, LazyTensor] = {}
    for path in paths:
        try:
            file = files.enter_context(safetensors.safe_open(path, framework="numpy"))
            names = list(file.keys())
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        for name in names:
            if not name.isprintable():
                raise ValueError(f"{path}: the name of a tensor is not printable: {name[:80]!r}")
            if name in tensors:
                raise ValueError(f"{path} has tensor {name}, which another file has too")
            tensors[name] = _lazy(path, file, name)
    return tensors


def _lazy(path: Path, file: Any, name: str) -> LazyTensor:
    described = file.get_slice(name)
    shape, dtype = tuple(described.get_shape()), described.get_dtype()
    if dtype in _EIGHT_BITS:
        read = functools.partial(_read_eight_bits, path, name, shape, _EIGHT_BITS[dtype])
    else:
        read = functools.partial(_read, path, file, name)
    return LazyTensor(shape, read, dtype)


def _read(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        values: np.ndarray = file.get_tensor(name)
    except (safetensors.SafetensorError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: tensor {name} cannot be read: {error}") from error
    return values


def _read_eight_bits(path: Path, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    # The library has checked the header: u64 length, then JSON with every tensor's place after it.
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        begin, end = json.loads(file.read(length))[name]["data_offsets"]
        file.seek(8 + length + begin)
        return np.frombuffer(file.read(end - begin), np.uint8).view(dtype).reshape(shape)
