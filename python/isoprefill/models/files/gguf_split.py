"""GGUF models that are split into several files.

llama.cpp writes NAME-00001-of-00003.gguf and so on. Each file has `split.count` and `split.no` (from 0) and some of the
tensors; the first has the metadata.
"""

import re
from pathlib import Path
from typing import Any

from isoprefill.models.files.gguf_header import GgufHeader, TensorInfo, read_header

_FILE_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def read_headers(path: Path) -> GgufHeader:
    """Reads the header of a model that is one file, or of all files of a split one, of which `path` is any.

    Raises:
        ValueError: as `read_header`; or a file is missing, or is not one of the same model.
    """
    header = read_header(path)
    count = _number(path, header, "split.count", default=1)
    if count <= 1:
        return header
    match = _FILE_NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise ValueError(
            f"{path} is one of {count} files of a model, so its name must end in -00001-of-{count:05}.gguf "
            "or the like, as the others' names do"
        )
    metadata: dict[str, Any] = {}
    tensors: dict[str, TensorInfo] = {}
    for number in range(count):
        shard_path = path.with_name(f"{match[1]}-{number + 1:05}-of-{count:05}.gguf")
        if not shard_path.is_file():
            raise ValueError(f"the model is split, and its file {shard_path} is missing")
        shard = read_header(shard_path)
        for key, expected in (("split.count", count), ("split.no", number)):
            if (found := _number(shard_path, shard, key, default=-1)) != expected:
                raise ValueError(f"{shard_path} must have {key} {expected}, got {found}")
        if twice := tensors.keys() & shard.tensors.keys():
            raise ValueError(f"{shard_path} has tensor {min(twice)}, which an earlier file has too")
        metadata = shard.metadata | metadata
        tensors |= shard.tensors
    total = metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise ValueError(
            f"{path} and the other files must have {total} tensors, got {len(tensors)}"
        )
    return GgufHeader(metadata, tensors)


def _number(path: Path, header: GgufHeader, key: str, *, default: int) -> int:
    value = header.metadata.get(key, default)
    if type(value) is not int:
        raise ValueError(f"{path}: {key} must be an integer, got {value!r}")
    return value
