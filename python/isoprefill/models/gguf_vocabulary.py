"""The vocabulary in a GGUF file's metadata: what both kinds of tokenizer need of it."""

from collections.abc import Mapping
from typing import Any

import tokenizers
from gguf.constants import TokenType


def required_list(metadata: Mapping[str, Any], key: str) -> list[Any]:
    """The array under a key; ValueError if it is absent or empty."""
    value = metadata.get(key)
    if not isinstance(value, list) or not value:
        raise ValueError(f"the file has no {key}")
    return value


def added_tokens(metadata: Mapping[str, Any]) -> list[tokenizers.AddedToken]:
    """Tokens that are matched in the text as a whole, before it is cut into words."""
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata.get("tokenizer.ggml.token_type", [])
    special = {TokenType.CONTROL, TokenType.UNKNOWN}
    return [
        tokenizers.AddedToken(token, normalized=False, special=kind in special)
        for token, kind in zip(tokens, types, strict=False)
        if kind in special or kind == TokenType.USER_DEFINED
    ]
