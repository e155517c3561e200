"""Builds a tokenizer from a GGUF file's metadata."""

from collections.abc import Mapping
from typing import Any

import tokenizers
from gguf.constants import TokenType

from isoprefill.models.byte_level_bpe import byte_level_bpe
from isoprefill.models.sentencepiece_bpe import sentencepiece_bpe
from isoprefill.models.tokenizer import Tokenizer

_SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer.

    Args:
        metadata: the file's key-value pairs.

    Raises:
        ValueError: the tokenizer is of an unsupported kind, or its data is missing or inconsistent.
    """

    def get(key: str, default: Any = None) -> Any:
        return metadata.get(f"tokenizer.ggml.{key}", default)

    def get_list(key: str) -> list[Any]:
        value = get(key)
        if not isinstance(value, list) or not value:
            raise ValueError(f"the file has no tokenizer.ggml.{key}")
        return value

    kind = get("model")
    if kind == "gpt2":
        backend = byte_level_bpe(get_list("tokens"), get_list("merges"), get("pre", "default"))
    elif kind == "llama":
        adds_space = get("add_space_prefix", True)
        backend = sentencepiece_bpe(get_list("tokens"), get_list("scores"), adds_space=adds_space)
    else:
        raise ValueError(f"tokenizer.ggml.model {kind!r} is not supported; supported: gpt2, llama")
    # Tokens that are matched in the text as a whole, before it is cut into words.
    backend.add_tokens(
        [
            tokenizers.AddedToken(token, normalized=False, special=type_ in _SPECIAL)
            for token, type_ in zip(get("tokens"), get("token_type", ()), strict=False)
            if type_ in (*_SPECIAL, TokenType.USER_DEFINED)
        ]
    )
    bos_id = get("bos_token_id")
    # Files that do not say so: SentencePiece models and Llama 3 expect BOS, as in llama.cpp.
    by_default = kind == "llama" or get("pre") == "llama-bpe"
    adds_bos = bool(get("add_bos_token", by_default))
    return Tokenizer(backend, bos_id=bos_id, adds_bos=adds_bos and bos_id is not None)
