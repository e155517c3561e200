"""SentencePiece BPE, as a GGUF file describes it ("llama" in GGUF's words: Llama 2, Mistral).

SentencePiece repeatedly joins the neighbours whose joint piece has the highest score. The file has pieces and scores
but no merges, so every way to cut a piece in two pieces becomes a merge, ranked by the score. Where the model wants a
space before a text, it is not added to a text that begins with one, as in transformers 5.
"""

from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

_SPACE = "\u2581"  # stands for a space inside pieces


def sentencepiece_bpe(
    tokens: Sequence[str], scores: Sequence[float], *, adds_space: bool
) -> tokenizers.Tokenizer:
    """Builds the tokenizer, without its added tokens.

    Args:
        tokens: the vocabulary, by id.
        scores: of each token.
        adds_space: whether a space is put before a text.

    Raises:
        ValueError: there is not one score for each token.
    """
    if len(scores) != len(tokens):
        raise ValueError(
            f"tokenizer.ggml.scores must have one score for each of the {len(tokens)} tokens, "
            f"got {len(scores)}"
        )
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    bpe = models.BPE(vocab=vocab, merges=_merges(vocab, scores), fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(bpe)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=_SPACE, prepend_scheme="first" if adds_space else "never", split=False
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if adds_space:
        steps.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(steps)
    return backend


def _merges(vocab: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    cuts = [
        (scores[token_id], token[:end], token[end:])
        for token, token_id in vocab.items()
        for end in range(1, len(token))
        if token[:end] in vocab and token[end:] in vocab
    ]
    # Among cuts of one score the longest left part first, as transformers ranks them.
    cuts.sort(key=lambda cut: (cut[0], len(cut[1]), len(cut[2])), reverse=True)
    return [(left, right) for _, left, right in cuts]
