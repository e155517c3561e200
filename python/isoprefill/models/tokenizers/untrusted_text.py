"""Text from strangers: special tokens that are spelt out in it become ordinary text.

A special token in a text is cut after its first character, so that no tokenizer finds it there. What a program wrote
itself around such a text, a prompt for example, keeps its special tokens.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

from isoprefill.models.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A piece of text, and whether its special tokens are meant."""

    text: str
    trusted: bool = False


def encode_spans(
    tokenizer: Tokenizer, spans: Sequence[Span], *, continues: bool = False
) -> list[int]:
    """Returns the token ids of the spans as one text, in which words may cross from span to span.

    Without a special token that touches an untrusted span these are the tokens of the joined text.

    Args:
        tokenizer: the model's.
        spans: pieces of the text, in order.
        continues: the text continues another (`Tokenizer.encode`).

    Raises:
        ValueError: the text is not valid Unicode.
    """
    pieces = split_untrusted(tokenizer, spans)
    return [
        token
        for place, piece in enumerate(pieces)
        for token in tokenizer.encode(piece, continues=continues or place > 0)
    ]


def split_untrusted(tokenizer: Tokenizer, spans: Sequence[Span]) -> list[str]:
    """Returns the text cut inside every special token that is not wholly in a trusted span."""
    text = "".join(span.text for span in spans)
    if all(span.trusted for span in spans):
        return [text]
    trusted = []
    begin = 0
    for span in spans:
        end = begin + len(span.text)
        if span.trusted:
            trusted.append((begin, end))
        begin = end
    pieces, begin = [], 0
    for found in _special_tokens(tokenizer).finditer(text):
        # Of tokens that begin at one place, the longest: if it is trusted, so are the others.
        first, last = found.start(), found.start() + len(found.group(1))
        if any(low <= first and last <= high for low, high in trusted):
            continue
        pieces.append(text[begin : first + 1])
        begin = first + 1
    pieces.append(text[begin:])
    return [piece for piece in pieces if piece]


@functools.lru_cache(maxsize=4)
def _special_tokens(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Matches at every place where a special token of more than one character begins, however they overlap."""
    spelt = sorted(filter(lambda token: len(token) > 1, tokenizer.special_tokens), key=len)
    if not spelt:
        return re.compile(r"(?!)()")
    # The first characters alone are what a scan looks for; the look-ahead lets matches overlap.
    first = "".join(sorted({re.escape(token[0]) for token in spelt}))
    return re.compile(f"(?=[{first}])(?=({'|'.join(map(re.escape, reversed(spelt)))}))")
