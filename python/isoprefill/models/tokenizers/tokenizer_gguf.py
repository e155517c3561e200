"""Builds a tokenizer from a GGUF file's metadata."""

import itertools
import logging
import math
from collections.abc import Mapping
from typing import Any

import tokenizers
from gguf.constants import TokenType

from isoprefill.models.tokenizers.byte_level_bpe import byte_level_bpe
from isoprefill.models.tokenizers.sentencepiece_bpe import sentencepiece_bpe
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.models.tokenizers.word_rules import find_rule

_LOG = logging.getLogger(__name__)
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

    def get_list(key: str, *, optional: bool = False) -> list[Any]:
        value = get(key, [] if optional else None)
        if not isinstance(value, list) or not (value or optional):
            raise ValueError(f"the file has no tokenizer.ggml.{key}")
        return value

    def get_texts(key: str) -> list[str]:
        value = get_list(key)
        if not isinstance(value[0], str):  # a GGUF array is of one type
            raise ValueError(f"tokenizer.ggml.{key} must hold text, got {value[0]!r}")
        return value

    def get_numbers(key: str) -> list[float]:
        value = get_list(key)
        if not all(isinstance(one, float) and math.isfinite(one) for one in value):
            raise ValueError(f"tokenizer.ggml.{key} must hold finite numbers")
        return value

    kind = get("model")
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"tokenizer.ggml.model {kind!r} is not supported; supported: gpt2, llama")
    tokens, types = get_texts("tokens"), get_list("token_type", optional=True)
    if kind == "gpt2":
        ordinary = [
            token
            for token, type_ in itertools.zip_longest(tokens, types[: len(tokens)])
            if type_ in (None, TokenType.NORMAL)
        ]
        rule, told_by_vocabulary = find_rule(get("pre"), ordinary)
        if told_by_vocabulary:
            _LOG.warning(
                "the file does not name its pre-tokenizer (tokenizer.ggml.pre): text is cut into words as by %s, "
                "which goes with the vocabulary; were it another, the tokens of some texts would be wrong",
                rule.names[0],
            )
        backend = byte_level_bpe(tokens, get_texts("merges"), rule)
    else:
        adds_space = bool(get("add_space_prefix", True))
        backend = sentencepiece_bpe(tokens, get_numbers("scores"), adds_space=adds_space)
    # Tokens that are matched in the text as a whole, before it is cut into words.
    backend.add_tokens(
        [
            tokenizers.AddedToken(token, normalized=False, special=type_ in _SPECIAL)
            for token, type_ in zip(tokens, types, strict=False)
            if type_ in (*_SPECIAL, TokenType.USER_DEFINED)
        ]
    )
    bos_id = get("bos_token_id")
    if bos_id is not None and not (type(bos_id) is int and 0 <= bos_id < len(tokens)):
        raise ValueError(
            f"tokenizer.ggml.bos_token_id must be a token id less than {len(tokens)}, got {bos_id!r}"
        )
    # Files that do not say so: SentencePiece models and Llama 3 expect BOS, as in llama.cpp.
    by_default = kind == "llama" or rule.adds_bos
    adds_bos = bool(get("add_bos_token", by_default))
    return Tokenizer(backend, bos_id=bos_id, adds_bos=adds_bos and bos_id is not None)
