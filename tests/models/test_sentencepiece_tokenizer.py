"""A GGUF file's SentencePiece BPE makes the tokens that SentencePiece and transformers make.

If one of these fails, a score is that of another text than the one that was given.
"""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.integrations.gguf import convert_gguf_tokenizer

from isoprefill.models.tokenizers.tokenizer_gguf import tokenizer_from_gguf
from tokenizer_texts import SENTENCES, sentencepiece_metadata, sweep


def test_sentencepiece_tokens_equal_transformers():
    metadata = sentencepiece_metadata()
    ours = tokenizer_from_gguf(metadata)
    names = {"tokenizer_type": "model", "tokens": "tokens", "scores": "scores"}
    names["token_type"] = "token_type"
    theirs, _ = convert_gguf_tokenizer(
        "llama", {theirs: metadata[f"tokenizer.ggml.{ours}"] for theirs, ours in names.items()}
    )

    @sweep
    @given(SENTENCES)
    @example("the capital of the country")
    @example("a</s> the <unk>")
    def check(text):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids

    check()
    assert ours.adds_bos
    assert ours.bos_id == 1


def test_sentencepiece_joins_the_best_pair_first():
    """Against SentencePiece's own rule, which knows no merges."""
    metadata = sentencepiece_metadata(**{"tokenizer.ggml.add_space_prefix": False})
    ours = tokenizer_from_gguf(metadata)
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    score = {token: value for token, value in zip(tokens, scores, strict=True) if token[0] != "<"}

    @sweep
    @given(st.text("the and.of", max_size=30))
    @example("the capital of the country")
    def check(text):
        pieces = list(text.replace(" ", "▁"))
        while True:
            joint = [score.get(a + b, -np.inf) for a, b in itertools.pairwise(pieces)]
            if not joint or max(joint) == -np.inf:
                break
            best = joint.index(max(joint))
            pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
        assert [tokens[i] for i in ours.encode(text)] == pieces

    check()


def test_sentencepiece_text_survives_a_round_trip():
    for adds_space in (True, False):
        metadata = sentencepiece_metadata(**{"tokenizer.ggml.add_space_prefix": adds_space})
        ours = tokenizer_from_gguf(metadata)
        for text in ("the end", "and so, on", "北京 🙂 Größe", ""):
            assert ours.decode(ours.encode(text)) == text
        # A text gets a leading space unless it has one, so with `adds_space` the two are the same.
        assert ours.decode(ours.encode(" and")) == ("and" if adds_space else " and")


def test_sentencepiece_needs_a_score_for_each_token():
    with pytest.raises(ValueError, match=r"scores must have one score for each of the \d+ tokens"):
        tokenizer_from_gguf(sentencepiece_metadata(**{"tokenizer.ggml.scores": [0.0]}))
