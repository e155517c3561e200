"""Text is cut into words by the rule that a GGUF file names, and by the vocabulary's own where it names none.

If one of these fails, every word may get other tokens than the model was trained with, and scores are wrong silently.
"""

import itertools
import logging

import pytest
import regex
from hypothesis import example, given, settings

from isoprefill.models.files.gguf_header import read_header
from isoprefill.models.sources import pinned
from isoprefill.models.tokenizers.tokenizer_gguf import tokenizer_from_gguf
from isoprefill.models.tokenizers.word_rules import find_rule
from tokenizer_texts import TEXT, sweep

# As the models were published with them. The `regex` package cuts here, Oniguruma in the product.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS, NOTHING = r"\p{N}", r"(?!)"
# llama.cpp's names of each rule: what is cut out first, and the rule for the rest.
NAMES = {
    "gpt-2": (NOTHING, GPT2),
    "phi-2": (NOTHING, GPT2),
    "smollm": (DIGITS, GPT2),
    "starcoder": (DIGITS, GPT2),
    "llama-bpe": (NOTHING, LLAMA3),
    "llama3": (NOTHING, LLAMA3),
    "llama-v3": (NOTHING, LLAMA3),
    "falcon3": (NOTHING, LLAMA3),
    "pixtral": (NOTHING, LLAMA3),
    "dbrx": (NOTHING, LLAMA3),
    "qwen2": (NOTHING, QWEN2),
    "deepseek-r1-qwen": (NOTHING, QWEN2),
    "stablelm2": (NOTHING, QWEN2),
    "tekken": (NOTHING, TEKKEN),
    "gpt-4o": (NOTHING, GPT4O),
    "llama4": (NOTHING, GPT4O),
}


def words_of(text: str, first: str, rule: str) -> list[str]:
    places = [match.span() for match in regex.finditer(first, text)]
    cuts = [0, *itertools.chain.from_iterable(places), len(text)]
    words = []
    for begin, end in itertools.pairwise(cuts):
        piece = text[begin:end]
        words += [piece] if (begin, end) in places else regex.findall(rule, piece)
    return [word for word in words if word]


@pytest.mark.parametrize("name", NAMES)
def test_words_are_those_of_the_published_rule(name):
    rule, told_by_vocabulary = find_rule(name, ())
    assert not told_by_vocabulary

    @settings(sweep, max_examples=60)
    @given(TEXT)
    @example("1234567 don't WE'LL  \n\n x HelloWorld iPhone's/// e\u0301E\u0301 हिन्दी")
    def check(text):
        spans = [span for _, span in rule.words.pre_tokenize_str(text)]
        # A cut inside a character is no cut of ours: bytes of one character stay in one word.
        assert [text[begin:end] for begin, end in spans] == words_of(text, *NAMES[name])

    check()


@pytest.mark.parametrize("name", ["llama3", "llama-v3", "falcon3", "pixtral", "tekken"])
def test_aliases_of_llama3_and_tekken_take_whole_words_and_expect_bos(name):
    rule, _ = find_rule(name, ())
    assert rule.ignores_merges
    assert rule.adds_bos


def smollm2_metadata(**changes):
    metadata = dict(read_header(pinned.locate("smollm2-135m")).metadata)
    del metadata["tokenizer.ggml.pre"]
    return metadata | changes


@pytest.mark.parametrize("pre", [{}, {"tokenizer.ggml.pre": "default"}])
def test_rule_of_an_unnamed_file_is_recovered_from_its_vocabulary(pre, caplog):
    """Early conversions have no name; GPT-2's rule would cut "  6" after one space, not after two."""
    named = tokenizer_from_gguf(dict(read_header(pinned.locate("smollm2-135m")).metadata))
    with caplog.at_level(logging.WARNING):
        unnamed = tokenizer_from_gguf(smollm2_metadata(**pre))
    (record,) = caplog.records
    assert "smollm" in record.getMessage()
    for text in ("1234567", "x  6", "a\n\n b 12", "don't"):
        assert unnamed.encode(text) == named.encode(text)


def vocabulary(rule: str) -> list[str]:
    """2,000 tokens that a rule leaves whole, some of which only that rule and coarser ones do."""
    words = ["".join(letters) for letters in itertools.product("abcdefghijklm", repeat=3)]
    methods = [f".{word}" for word in words[:100]]
    return (
        words
        + {
            "smollm": [],
            "qwen2": methods,
            "llama-bpe": methods + [str(n) for n in range(100, 150)],
            "gpt-2": [f"Ġ{n}" for n in range(1000, 1100)],
        }[rule]
    )


@pytest.mark.parametrize("rule", ["smollm", "qwen2", "llama-bpe", "gpt-2"])
def test_vocabulary_tells_the_rule_that_made_it(rule):
    found, told_by_vocabulary = find_rule(None, vocabulary(rule))
    assert told_by_vocabulary
    assert rule in found.names


def test_vocabulary_of_no_known_rule_is_refused():
    with pytest.raises(
        ValueError, match=r"no tokenizer\.ggml\.pre, .* goes with none of the rules"
    ):
        find_rule(None, [f"aĠb{n}" for n in range(100)])
