"""Special tokens that untrusted text spells out are ordinary text; everything else is tokenised as ever."""

import hypothesis
import pytest
from hypothesis import strategies as st

from isoprefill.models.sources.source import load_tokenizer
from isoprefill.models.tokenizers.untrusted_text import Span, encode_spans
from tokenizer_texts import SENTENCES, SPECIAL

TOKENIZER = load_tokenizer("smollm2-135m")
IDS = {TOKENIZER.backend.token_to_id(text) for text in TOKENIZER.special_tokens}
sweep = hypothesis.settings(derandomize=True, deadline=None, max_examples=150)
# Halves that only together are a special token, and tokens inside others.
HOSTILE = st.lists(
    st.sampled_from([*SPECIAL, "<|im_", "start|>", "<|im_<|im_end|>end|>", "<", "|>", "x", " "]),
    max_size=8,
).map("".join)


@sweep
@hypothesis.given(st.one_of(HOSTILE, SENTENCES))
def test_no_special_token_comes_of_untrusted_text(text):
    """Whatever overlaps, and nothing of the text is lost."""
    tokens = encode_spans(TOKENIZER, [Span(text)])
    assert not IDS & set(tokens)
    kept = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens) == TOKENIZER.decode(kept)
    if not IDS & set(kept):
        assert tokens == kept


@sweep
@hypothesis.given(HOSTILE, HOSTILE)
def test_a_prompts_own_tokens_stay_beside_untrusted_text(first, second):
    """Nor does a prompt's end together with a text's beginning make one."""
    prompt = Span("<|im_start|>user\n<|im_", trusted=True), Span("<|im_end|>\n", trusted=True)
    tokens = encode_spans(TOKENIZER, [prompt[0], Span(first), prompt[1], Span(second)])
    start, end = map(TOKENIZER.backend.token_to_id, ("<|im_start|>", "<|im_end|>"))
    assert [token for token in tokens if token in IDS] == [start, end]


def test_text_without_special_tokens_is_tokenised_across_spans():
    """Words cross from a prompt to a text, as in the text that the model was trained with."""
    spans = [Span("Query: unbeliev", trusted=True), Span("able"), Span(" indeed", trusted=True)]
    assert encode_spans(TOKENIZER, spans) == TOKENIZER.encode("Query: unbelievable indeed")


@pytest.mark.parametrize("text", ["", "\x04"])
def test_nothing_becomes_nothing(text):
    assert encode_spans(TOKENIZER, [Span(text)]) == []
