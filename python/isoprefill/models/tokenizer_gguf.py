"""Builds a tokenizer from a GGUF file's metadata."""

from collections.abc import Callable, Mapping
from typing import Any

import tokenizers

from isoprefill.models.byte_level_bpe import byte_level_bpe
from isoprefill.models.gguf_vocabulary import added_tokens
from isoprefill.models.sentencepiece_bpe import sentencepiece_bpe
from isoprefill.models.tokenizer import Tokenizer

_KINDS: dict[str, Callable[[Mapping[str, Any]], tokenizers.Tokenizer]] = {
    "gpt2": byte_level_bpe,
    "llama": sentencepiece_bpe,
}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer.

    Args:
        metadata: the file's key-value pairs.

    Raises:
        ValueError: the tokenizer is of an unsupported kind, or its data is missing or inconsistent.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in _KINDS:
        raise ValueError(
            f"tokenizer.ggml.model {kind!r} is not supported; supported: {', '.join(_KINDS)}"
        )
    backend = _KINDS[kind](metadata)
    backend.add_tokens(added_tokens(metadata))
    bos_id = metadata.get("tokenizer.ggml.bos_token_id")
    # Files that do not say so: SentencePiece models and Llama 3 expect BOS, as in llama.cpp.
    by_default = kind == "llama" or metadata.get("tokenizer.ggml.pre") == "llama-bpe"
    adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", by_default))
    return Tokenizer(backend, bos_id=bos_id, adds_bos=adds_bos and bos_id is not None)
