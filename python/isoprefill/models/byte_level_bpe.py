"""Byte-level BPE, as a GGUF file describes it ("gpt2" in GGUF's words).

The file has the vocabulary, the merges and the name of the pre-tokenizer, the rule that cuts text into words before
merging. The rules below are those of the tokenizers that the models were published with.
"""

from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen2 differs from Llama 3 in one place: every digit is a word.
_QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
_DIGITS = pre_tokenizers.Digits(individual_digits=True)
_PRE_TOKENIZERS: dict[str, pre_tokenizers.PreTokenizer] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": pre_tokenizers.Sequence([_DIGITS, _GPT2]),
    "llama-bpe": _split(_LLAMA3_WORDS),
    "qwen2": _split(_QWEN2_WORDS),
}


def byte_level_bpe(tokens: Sequence[str], merges: Sequence[str], pre: str) -> tokenizers.Tokenizer:
    """Builds the tokenizer, without its added tokens.

    Args:
        tokens: the vocabulary, by id.
        merges: each two tokens with a space between them, the first to merge first.
        pre: name of the pre-tokenizer.

    Raises:
        ValueError: the pre-tokenizer is not supported, or merges and tokens do not fit together.
    """
    if pre not in _PRE_TOKENIZERS:
        raise ValueError(
            f"tokenizer.ggml.pre {pre!r} is not supported; supported: {', '.join(_PRE_TOKENIZERS)}"
        )
    try:
        bpe = models.BPE(
            vocab={token: token_id for token_id, token in enumerate(tokens)},
            merges=[merge.partition(" ")[::2] for merge in merges],
            ignore_merges=pre == "llama-bpe",
        )
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(
            f"tokenizer.ggml.merges does not fit tokenizer.ggml.tokens: {error}"
        ) from error
    backend = tokenizers.Tokenizer(bpe)
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _PRE_TOKENIZERS[pre]
    backend.decoder = decoders.ByteLevel()
    return backend
