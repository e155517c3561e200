"""Loads the tokenizer of a Hugging Face directory.

tokenizer.json is the tokenizer, and its post-processor decides whether a text begins with BOS, as in
transformers 5; tokenizer_config.json, if there is one, only names the BOS token.
"""

from pathlib import Path
from typing import Any

import tokenizers

from isoprefill.models.json_file import read_json_object
from isoprefill.models.tokenizer import Tokenizer


def tokenizer_from_directory(directory: Path) -> Tokenizer:
    """Loads the tokenizer.

    Raises:
        ValueError: there is no tokenizer.json, or it cannot be read.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{directory} has no tokenizer.json")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(f"{path} cannot be read: {error}") from error
    config_path = directory / "tokenizer_config.json"
    config = read_json_object(config_path) if config_path.is_file() else {}

    prepended = _prepended(backend)
    if prepended is not None:
        return Tokenizer(backend, bos_id=prepended, adds_bos=True)
    return Tokenizer(backend, bos_id=_token_id(backend, config.get("bos_token")), adds_bos=False)


def _token_id(backend: tokenizers.Tokenizer, token: Any) -> int | None:
    """Id of a token named in tokenizer_config.json, as text or as an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(content) if isinstance(content, str) else None


def _prepended(backend: tokenizers.Tokenizer) -> int | None:
    """The token that tokenizer.json's post-processor puts before a text, if it does."""
    backend.no_padding()  # else the padding of the shorter one would look like text
    plain = backend.encode("a", add_special_tokens=False).ids
    processed = backend.encode("a", add_special_tokens=True).ids
    return processed[0] if processed[1 : 1 + len(plain)] == plain else None
