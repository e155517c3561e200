"""Where a model comes from: a pinned name, a GGUF file or a Hugging Face directory.

Importing this does not import jax.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from isoprefill.models import pinned
from isoprefill.models.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that exists.

    Attributes:
        name: what to call it in answers: the pinned name, or the file's or directory's own.
        path: the .gguf file or the directory.
        kind: which of the two.
    """

    name: str
    path: Path
    kind: Literal["gguf", "directory"]


def find_model(source: str | Path) -> ModelSource:
    """Finds a model, fetching it if it is a pinned one that is not on this machine yet.

    Args:
        source: a pinned name (`pinned.MODELS`), a .gguf file, or a directory with config.json. A pinned name wins over
            a file of that name; "./name" is always a path.

    Raises:
        ValueError: there is no such model; says what was looked for.
        pinned.FetchError: a pinned model could not be fetched.
    """
    if isinstance(source, str) and source in pinned.MODELS:
        return ModelSource(source, pinned.locate(source), "gguf")
    path = Path(source).expanduser()
    name = path.resolve().name
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"model directory {path} has no config.json")
        return ModelSource(name, path, "directory")
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(
                f"model file {path} must be a .gguf file; for safetensors give the directory"
            )
        return ModelSource(name, path, "gguf")
    looks_like_path = path.suffix == ".gguf" or len(path.parts) > 1
    if looks_like_path:
        raise ValueError(f"model {str(source)!r} does not exist: no such file or directory")
    raise ValueError(
        f"model {str(source)!r} is unknown: give a .gguf file, a Hugging Face directory, or one of "
        f"{', '.join(pinned.MODELS)}"
    )


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Loads a model's tokenizer without its weights, for a process that must not import jax.

    Raises:
        ValueError: there is no such model, or its tokenizer is missing or unsupported.
        pinned.FetchError: a pinned model could not be fetched.
    """
    found = find_model(source)
    # Imported here so that one format's packages are not needed for the other.
    if found.kind == "gguf":
        from isoprefill.models.gguf_header import read_header
        from isoprefill.models.tokenizer_gguf import tokenizer_from_gguf

        return tokenizer_from_gguf(read_header(found.path).metadata)
    from isoprefill.models.tokenizer_json import tokenizer_from_directory

    return tokenizer_from_directory(found.path)
