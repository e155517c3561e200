"""Loads the tokenizer of a Hugging Face directory.

tokenizer.json is the tokenizer; tokenizer_config.json, if there is one, names the BOS token.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers

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
    config: dict[str, Any] = (
        json.loads(config_path.read_text("utf-8")) if config_path.is_file() else {}
    )

    bos_id = _token_id(backend, config.get("bos_token"))
    prepended = _prepended(backend)
    if prepended is not None:
        bos_id = prepended
    adds_bos = config.get("add_bos_token", prepended is not None) and bos_id is not None
    return Tokenizer(backend, bos_id=bos_id, adds_bos=bool(adds_bos))


def _token_id(backend: tokenizers.Tokenizer, token: Any) -> int | None:
    """Id of a token named in tokenizer_config.json, as text or as an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(content) if isinstance(content, str) else None


def _prepended(backend: tokenizers.Tokenizer) -> int | None:
    """The token that tokenizer.json's post-processor puts before a text, if it does."""
    plain = backend.encode("a", add_special_tokens=False).ids
    processed = backend.encode("a", add_special_tokens=True).ids
    return processed[0] if processed[1 : 1 + len(plain)] == plain else None
