"""Byte-level BPE, as a GGUF file describes it ("gpt2" in GGUF's words).

The file has the vocabulary, the merges and the name of the rule that cuts text into words before merging.
"""

from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models

from isoprefill.models.tokenizers.word_rules import WordRule


def byte_level_bpe(
    tokens: Sequence[str], merges: Sequence[str], rule: WordRule
) -> tokenizers.Tokenizer:
    """Builds the tokenizer, without its added tokens.

    Args:
        tokens: the vocabulary, by id.
        merges: each two tokens with a space between them, the first to merge first.
        rule: how text becomes words.

    Raises:
        ValueError: merges and tokens do not fit together.
    """
    try:
        bpe = models.BPE(
            vocab={token: token_id for token_id, token in enumerate(tokens)},
            merges=[merge.partition(" ")[::2] for merge in merges],
            ignore_merges=rule.ignores_merges,
        )
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(
            f"tokenizer.ggml.merges does not fit tokenizer.ggml.tokens: {error}"
        ) from error
    backend = tokenizers.Tokenizer(bpe)
    if rule.normalizer is not None:
        backend.normalizer = rule.normalizer
    backend.pre_tokenizer = rule.words
    backend.decoder = decoders.ByteLevel()
    return backend
