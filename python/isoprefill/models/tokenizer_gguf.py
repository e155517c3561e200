"""Builds a tokenizer from a GGUF file's metadata: byte-level BPE ("gpt2" in GGUF's words).

The file has the vocabulary, the merges and the name of the pre-tokenizer, the rule that cuts text
into words before merging. The rules below are those of the tokenizers that the models were
published with.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from isoprefill.models.tokenizer import Tokenizer

_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen2 differs from Llama 3 in one place: every digit is a word.
_QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")

_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type


def _words(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2_words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "default": _gpt2_words,
    "gpt-2": _gpt2_words,
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _gpt2_words()]
    ),
    "llama-bpe": lambda: _words(_LLAMA3_WORDS),
    "qwen2": lambda: _words(_QWEN2_WORDS),
}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer.

    Args:
        metadata: the file's key-value pairs.

    Raises:
        ValueError: the tokenizer or its pre-tokenizer is of an unsupported kind, or its data is
            missing or inconsistent.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ValueError(
            f"tokenizer.ggml.model {kind!r} is not supported; supported: gpt2 (byte-level BPE)"
        )
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in _PRE_TOKENIZERS:
        raise ValueError(
            f"tokenizer.ggml.pre {pre!r} is not supported; supported: {', '.join(_PRE_TOKENIZERS)}"
        )
    tokens = _required_list(metadata, "tokenizer.ggml.tokens")
    merges = [_pair(merge) for merge in _required_list(metadata, "tokenizer.ggml.merges")]
    try:
        bpe = models.BPE(
            vocab={token: token_id for token_id, token in enumerate(tokens)},
            merges=merges,
            ignore_merges=pre == "llama-bpe",
        )
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(
            f"tokenizer.ggml.merges does not fit tokenizer.ggml.tokens: {error}"
        ) from error
    backend = tokenizers.Tokenizer(bpe)
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()

    types = metadata.get("tokenizer.ggml.token_type", [])
    backend.add_special_tokens(_added(tokens, types, _CONTROL, special=True))
    backend.add_tokens(_added(tokens, types, _USER_DEFINED, special=False))

    bos_id = metadata.get("tokenizer.ggml.bos_token_id")
    adds_bos = (
        metadata.get("tokenizer.ggml.add_bos_token", pre == "llama-bpe") and bos_id is not None
    )
    return Tokenizer(backend, bos_id=bos_id, adds_bos=bool(adds_bos))


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _added(
    tokens: Sequence[str], types: Sequence[int], wanted: int, *, special: bool
) -> list[tokenizers.AddedToken]:
    """Tokens that are matched in the text as a whole, before it is cut into words."""
    return [
        tokenizers.AddedToken(token, normalized=False, special=special)
        for token, kind in zip(tokens, types, strict=False)
        if kind == wanted
    ]


def _required_list(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not value:
        raise ValueError(f"the file has no {key}")
    return value
