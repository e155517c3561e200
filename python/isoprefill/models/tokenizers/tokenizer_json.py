"""Loads the tokenizer of a Hugging Face directory.

tokenizer.json is the tokenizer, and its post-processor decides whether a text begins with BOS, as in transformers 5.
tokenizer_config.json, if there is one, names the BOS token, tokens that tokenizer.json may lack, and the class; the
class of Llama 2 has a rule of its own for the space before a text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from isoprefill.models.config.architectures import ARCHITECTURES
from isoprefill.models.files.json_file import read_json_object
from isoprefill.models.tokenizers.declared_tokens import add_declared_tokens
from isoprefill.models.tokenizers.tokenizer import Tokenizer

_LARGEST_ID = 2**31 - 1
_LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
_NOT_OF_LLAMA_CLASS = [name for name, row in ARCHITECTURES.items() if not row.llama_tokenizer]


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
    config = _object_or_empty(directory / "tokenizer_config.json")
    add_declared_tokens(backend, directory, config)
    largest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
    if largest > _LARGEST_ID:
        raise ValueError(f"{path}: token ids must be less than 2**31, got {largest}")
    if _has_llama_class(directory, config):
        _put_space_as_llama_class(backend, config)

    prepended = _prepended(backend)
    if prepended is not None:
        return Tokenizer(backend, bos_id=prepended, adds_bos=True)
    return Tokenizer(backend, bos_id=_token_id(backend, config.get("bos_token")), adds_bos=False)


def _object_or_empty(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _has_llama_class(directory: Path, config: Mapping[str, Any]) -> bool:
    """Returns whether transformers 5 makes a LlamaTokenizer of the directory."""
    model_config = _object_or_empty(directory / "config.json")
    name = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    if name not in _LLAMA_CLASSES or model_config.get("model_type") in _NOT_OF_LLAMA_CLASS:
        return False
    # Some of Llama 3's files name the class, too, and are taken as they are.
    return '"ByteLevel"' not in (directory / "tokenizer.json").read_text("utf-8")


def _put_space_as_llama_class(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Puts a space before a text as transformers 5 does, which drops what tokenizer.json says of it.

    Llama 2's tokenizer.json would put one before a text that begins with a space, too.
    """
    scheme = "always" if config.get("legacy") else "first"
    if config.get("add_prefix_space") is False:
        scheme = "never"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


def _token_id(backend: tokenizers.Tokenizer, token: Any) -> int | None:
    """Returns the id of a token named in tokenizer_config.json, as text or as an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(content) if isinstance(content, str) else None


def _prepended(backend: tokenizers.Tokenizer) -> int | None:
    """Returns the token that tokenizer.json's post-processor puts before a text, if it does."""
    backend.no_padding()  # else the padding of the shorter one would look like text
    plain = backend.encode("a", add_special_tokens=False).ids
    processed = backend.encode("a", add_special_tokens=True).ids
    return processed[0] if processed[1 : 1 + len(plain)] == plain else None
