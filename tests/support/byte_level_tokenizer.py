"""A byte-level BPE tokenizer without merges, in which every byte is a token."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers


def byte_tokenizer() -> tokenizers.Tokenizer:
    """A tokenizer with a token for each byte and "<s>" (256)."""
    vocab = {token: index for index, token in enumerate(byte_alphabet())}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE, in a fixed order."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())
