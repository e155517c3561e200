"""A GGUF file's byte-level BPE makes the tokens that the model was trained on, and those that transformers makes.

If one of these fails, a score is that of another text than the one that was given.
"""

import re
import unicodedata

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers.integrations.gguf import convert_gguf_tokenizer

from isoprefill.models.files.gguf_header import read_header
from isoprefill.models.sources import pinned
from isoprefill.models.sources.source import load_tokenizer
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.models.tokenizers.tokenizer_gguf import tokenizer_from_gguf
from tokenizer_texts import FRAGMENTS, TEXT, sweep
from transformers_gguf import tokenizer_by_transformers


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return load_tokenizer("smollm2-135m")


@pytest.fixture(scope="module")
def theirs():
    return tokenizer_by_transformers(pinned.locate("smollm2-135m"))


@pytest.fixture(scope="module")
def published(theirs) -> tokenizers.Tokenizer:
    """transformers' tokenizer with the rule that SmolLM2 was trained with: each digit is a word."""
    backend = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    return backend


def without_space_before_numbers(text: str) -> str:
    """Drops the white space on which transformers' reading of GGUF differs from SmolLM2's own."""
    numbers = "".join({c for c in text if unicodedata.category(c).startswith("N")})
    return re.sub(rf"\s+(?=[{re.escape(numbers)}])", "", text) if numbers else text


def test_tokens_equal_transformers(ours, theirs):
    @sweep
    @given(TEXT.map(without_space_before_numbers))
    def check(text):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids

    check()


def test_tokens_equal_the_published_tokenizer(ours, published):
    @sweep
    @given(TEXT)
    @example("  6\n\n7 8")
    def check(text):
        assert ours.encode(text) == published.encode(text, add_special_tokens=False).ids

    check()


def test_spaces_before_a_digit_stay_together(ours):
    """SmolLM2 takes digits one by one before words; reading it as GPT-2 would cut "  6" after one space."""
    spaces, digit = ours.encode("x  6")[1:]
    assert ours.decode([spaces]) == "  "
    assert ours.decode([digit]) == "6"


def test_text_survives_a_round_trip(ours):
    # SmolLM2's vocabulary cannot spell some control characters, nor the planes above 1.
    ordinary = st.characters(max_codepoint=0x1FFFF, exclude_categories=("Cc", "Cn", "Co", "Cs"))

    @sweep
    @given(st.one_of(st.lists(st.sampled_from(FRAGMENTS)).map("".join), st.text(ordinary)))
    def check(text):
        assert ours.decode(ours.encode(text)) == text

    check()


def test_known_tokens(ours):
    assert ours.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert ours.encode("") == []
    assert ours.vocab_size == 49152


def test_special_token_spelt_out_in_text_becomes_that_token(ours, theirs):
    """As transformers does it."""
    ids = ours.encode("a<|im_end|>b")
    assert ids == theirs("a<|im_end|>b").input_ids
    assert ids[1] == 2
    assert len(ids) == 3
    special = {index for index, token in theirs.added_tokens_decoder.items() if token.special}
    added = ours.backend.get_added_tokens_decoder().items()
    assert {index for index, token in added if token.special} == special == set(range(17))


def test_bos_is_known_but_not_added_by_smollm2(ours, theirs):
    assert not ours.adds_bos
    assert ours.bos_id == theirs.bos_token_id == 1


def test_lone_surrogate_is_refused(ours):
    with pytest.raises(
        ValueError, match=r"valid Unicode.*half of a surrogate pair, '\\ud83d', at 2"
    ):
        ours.encode("ab\ud83d")


@pytest.mark.parametrize("pre", ["gpt-2", "default", "llama-bpe", "qwen2"])
def test_other_pre_tokenizers_equal_transformers(pre):
    """On SmolLM2's vocabulary with merged digits, so that words cut elsewhere give other tokens."""
    metadata = dict(read_header(pinned.locate("smollm2-135m")).metadata)
    pairs = [(left, right) for left in "0123456789" for right in "0123456789"]
    metadata["tokenizer.ggml.pre"] = pre
    metadata["tokenizer.ggml.tokens"] += [left + right for left, right in pairs]
    metadata["tokenizer.ggml.token_type"] += [1] * len(pairs)
    metadata["tokenizer.ggml.merges"] += [f"{left} {right}" for left, right in pairs]
    ours = tokenizer_from_gguf(metadata)
    theirs, _ = convert_gguf_tokenizer(
        "llama",
        {
            "tokenizer_type": "gpt2",
            "pre_tokenizer_type": pre,
            "tokens": metadata["tokenizer.ggml.tokens"],
            "token_type": metadata["tokenizer.ggml.token_type"],
            "merges": metadata["tokenizer.ggml.merges"],
        },
    )
    # Qwen2's own tokenizer composes characters first, which transformers does not do for GGUF.
    text = TEXT.map(lambda text: unicodedata.normalize("NFC", text)) if pre == "qwen2" else TEXT

    @settings(sweep, max_examples=200)
    @given(text)
    @example("1234567 don't WE'LL  \n\n x")
    def check(text):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids

    check()


def test_qwen2_composes_characters_first():
    metadata = dict(read_header(pinned.locate("smollm2-135m")).metadata)
    qwen2 = tokenizer_from_gguf(metadata | {"tokenizer.ggml.pre": "qwen2"})
    assert qwen2.encode("e\u0301") == qwen2.encode("\u00e9")


def test_llama3_takes_a_whole_word_of_its_vocabulary_before_merging():
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "bc", "abc", "<s>"],
        "tokenizer.ggml.token_type": [1] * 6 + [3],
        "tokenizer.ggml.merges": ["b c", "a b"],  # never reach "abc"
        "tokenizer.ggml.bos_token_id": 6,
    }
    llama3 = tokenizer_from_gguf(metadata)
    assert llama3.encode("abc") == [5]
    assert llama3.adds_bos, "llama-bpe files that do not say so expect BOS"
    assert not tokenizer_from_gguf(metadata | {"tokenizer.ggml.add_bos_token": False}).adds_bos


def test_user_defined_token_is_matched_whole_but_is_not_special():
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "<think>", "Ġ"],
        "tokenizer.ggml.token_type": [1, 1, 4, 1],
        "tokenizer.ggml.merges": ["a b"],
    }
    metadata["tokenizer.ggml.tokens"].append("ab")
    metadata["tokenizer.ggml.token_type"].append(1)
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer.encode("ab<think>b") == [4, 2, 1]
    assert not tokenizer.backend.get_added_tokens_decoder()[2].special
    assert tokenizer.bos_id is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "t5"}, r"tokenizer\.ggml\.model 't5' is not supported"),
        ({"tokenizer.ggml.pre": "no-such"}, r"ggml\.pre 'no-such' is not supported; .*smollm"),
        ({"tokenizer.ggml.pre": [1]}, r"ggml\.pre \[1\] is not supported"),
        ({"tokenizer.ggml.merges": [1.5]}, r"merges must hold text, got 1.5"),
        ({"tokenizer.ggml.bos_token_id": 3}, r"bos_token_id must be a token id less than 3, got 3"),
        ({"tokenizer.ggml.merges": ["a x"]}, r"tokenizer\.ggml\.merges does not fit"),
        ({"tokenizer.ggml.merges": []}, r"no tokenizer\.ggml\.merges"),
        ({"tokenizer.ggml.tokens": None}, r"no tokenizer\.ggml\.tokens"),
    ],
)
def test_gguf_tokenizer_that_cannot_be_built_is_refused(change, message):
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b"],
    }
    with pytest.raises(ValueError, match=message):
        tokenizer_from_gguf(metadata | change)
