"""Tokens of prompts: what comes before the document once, and what follows it for every document."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.models.tokenizers.untrusted_text import Span, encode_spans
from isoprefill.rerank.template import Layout, Piece, places

_WORDS = re.compile(r"(?:^|(?<=\S)) (?=\S)")
Texts = Mapping[str, str]  # of a request: its query and its instruction


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """A layout cut before the document, between words or at a boundary: its tokens are those of the whole prompt.

    Attributes:
        head: pieces before the cut, the same for all documents of a request.
        item: pieces from the cut on: the document, and in front of it what may become one token with it.
        tail: pieces after `item` whose tokens are scored; none if labels are.
    """

    head: Layout
    item: Layout
    tail: Layout = ()

    @classmethod
    def of(cls, layout: Layout, *, scores_query: bool) -> "Prompt":
        """Cuts a layout.

        Args:
            layout: the pieces.
            scores_query: the query is scored, which must then be the last piece.

        Raises:
            ValueError: the query is not last.
        """
        head, item = cut_before(layout, places(layout, "document"))
        if not scores_query:
            return cls(head, item)
        if layout[-1].kind != "query":
            raise ValueError("it must end in {{ query }}, whose tokens are scored")
        item, tail = cut_before(item, len(item) - 1)
        return cls(head, item, tail)


def cut_before(layout: Layout, index: int) -> tuple[Layout, Layout]:
    """Returns the pieces before a place, and those from it on with what may become one token with what is there.

    White space is the following word's own. Without any, the end of the text in front can join what follows, as ":"
    does "(", and line breaks join the symbol before them: then the cut is before the last word that a space begins.
    """
    before = list(layout[:index])
    joined: tuple[Piece, ...] = ()
    if before and before[-1].kind == "text":
        text = before.pop().text
        end = len(text.rstrip())
        words = [found.start() for found in _WORDS.finditer(text)]
        cut = words[-1] if words and not text.startswith(" ", end) else end
        before += [Piece("text", text[:cut])] if cut else []
        joined = (Piece("text", text[cut:]),) if cut < len(text) else ()
    return tuple(before), (*joined, *layout[index:])


def continues(before: Layout) -> bool:
    """Whether what follows the pieces is tokenised as the continuation of a text."""
    return bool(before) and before[-1].kind != "boundary"


def encode_pieces(
    tokenizer: Tokenizer,
    pieces: Sequence[Piece],
    texts: Texts,
    *,
    untrusted: bool,
    continuing: bool = False,
) -> list[int]:
    """Returns the tokens of pieces: of each run of them between boundaries, as one text.

    Args:
        tokenizer: the model's.
        pieces: of a layout.
        texts: what stands in the places that are not fixed text.
        untrusted: special tokens that `texts` spell out are ordinary text.
        continuing: the first run continues a text.
    """
    tokens: list[int] = []
    spans: list[Span] = []
    for piece in (*pieces, Piece("boundary")):
        if piece.kind == "boundary":
            tokens += encode_spans(tokenizer, spans, continues=continuing) if spans else []
            spans, continuing = [], False
        elif piece.kind == "text":
            spans.append(Span(piece.text, trusted=True))
        else:
            spans.append(Span(texts[piece.kind], trusted=not untrusted))
    return tokens
