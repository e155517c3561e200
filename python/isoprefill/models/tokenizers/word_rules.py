"""The rules by which byte-level BPE cuts text into words before it merges, by their names in GGUF files.

A rule is that of the tokenizer that the models were published with, and its names are those that llama.cpp gives it
(`tokenizer.ggml.pre`). Files of early conversions have no name. Then the vocabulary tells: merging never crosses a
word's end, so a rule that cuts one of the vocabulary's tokens in two is not the one that the vocabulary was made with.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import normalizers, pre_tokenizers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_OTHERS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_WORDS = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _OTHERS
)
# Qwen2 differs from Llama 3 in one place: every digit is a word.
_QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
# A word ends where an upper-case letter follows a lower-case one; marks belong to letters.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?" + f"{_UPPER}*{_LOWER}+",
    r"[^\r\n\p{L}\p{N}]?" + f"{_UPPER}+{_LOWER}*",
)
_SYMBOLS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN_WORDS = "|".join(_CASED) + r"|\p{N}" + _SYMBOLS + _OTHERS
_GPT4O_WORDS = (
    "|".join(f"{cased}{_CONTRACTIONS}?" for cased in _CASED) + r"|\p{N}{1,3}" + _SYMBOLS + _OTHERS
)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class WordRule:
    """How text becomes words.

    Attributes:
        names: in GGUF files.
        words: the cut; it also writes bytes as the characters of the vocabulary.
        ignores_merges: a whole word of the vocabulary is taken without merging.
        adds_bos: files with this rule expect BOS, unless they say otherwise.
        composes: text is put into Unicode's form NFC first.
    """

    names: tuple[str, ...]
    words: pre_tokenizers.PreTokenizer
    ignores_merges: bool = False
    adds_bos: bool = False
    composes: bool = False

    @property
    def normalizer(self) -> normalizers.Normalizer | None:
        """What changes the text before it is cut."""
        return normalizers.NFC() if self.composes else None


_GPT2_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
_DIGITS_FIRST = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), _GPT2_WORDS]
)
_QWEN2_NAMES = ("qwen2", "deepseek-r1-qwen", "kormo", "megrez")
_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2")
_SMOLLM_NAMES = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_GPT2_NAMES = ("gpt-2", "phi-2", "mpt", "olmo", "exaone4")

# The finest cut of digits first: those before it in the list would cut more of a vocabulary's tokens.
_RULES = (
    WordRule(_SMOLLM_NAMES, _DIGITS_FIRST),
    WordRule(_QWEN2_NAMES, _split(_QWEN2_WORDS), composes=True),
    WordRule(("stablelm2",), _split(_QWEN2_WORDS)),
    WordRule(_LLAMA3_NAMES, _split(_LLAMA3_WORDS), ignores_merges=True, adds_bos=True),
    WordRule(("dbrx", "smaug-bpe"), _split(_LLAMA3_WORDS)),
    WordRule(_GPT2_NAMES, _GPT2_WORDS),
    WordRule(("tekken",), _split(_TEKKEN_WORDS), ignores_merges=True, adds_bos=True),
    WordRule(("gpt-4o", "llama4", "kanana2"), _split(_GPT4O_WORDS)),
)
_UNNAMED = (None, "default")
_TOKENS_PER_CUT_ONE = (
    1000  # the wrong rules cut 2.4 of 1,000 tokens of SmolLM2, and more of the others
)
# What a vocabulary can tell apart.
_RECOGNISED = tuple(
    rule for rule in _RULES if {"smollm", "qwen2", "llama-bpe", "gpt-2"} & {*rule.names}
)


def find_rule(name: object, tokens: Sequence[str]) -> tuple[WordRule, bool]:
    """Returns the rule of a file, and whether its vocabulary had to tell.

    Args:
        name: the file's `tokenizer.ggml.pre`, or None.
        tokens: the vocabulary's ordinary tokens, in byte-level BPE's characters.

    Raises:
        ValueError: the name is unknown, or there is none and no rule goes with the vocabulary.
    """
    if name in _UNNAMED:
        return _recognise(tokens), True
    for rule in _RULES:
        if name in rule.names:
            return rule, False
    known = ", ".join(name for rule in _RULES for name in rule.names)
    raise ValueError(f"tokenizer.ggml.pre {name!r} is not supported; supported: {known}")


def _recognise(tokens: Iterable[str]) -> WordRule:
    """Returns the first rule that leaves the tokens whole, but for a few, which published vocabularies have."""
    texts = [text for text in map(_text_of, tokens) if text]
    for rule in _RECOGNISED:
        cut = sum(len(rule.words.pre_tokenize_str(text)) != 1 for text in texts)
        if cut * _TOKENS_PER_CUT_ONE <= len(texts):
            return rule
    raise ValueError(
        "the file has no tokenizer.ggml.pre, and its vocabulary goes with none of the rules "
        f"{', '.join(rule.names[0] for rule in _RECOGNISED)}: convert the model anew, or set the key"
    )


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes printable bytes as themselves and the others as the characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTE_OF_CHARACTER = _byte_of_character()


def _text_of(token: str) -> str | None:
    """Returns what a token spells, or None if that is no whole text."""
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in token).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return None
