"""Tokens of prompts: what comes before the document once, and what follows it for every document."""

import dataclasses
from collections.abc import Mapping, Sequence

from isoprefill.models.tokenizer import Tokenizer
from isoprefill.models.untrusted_text import Span, encode_spans
from isoprefill.server.rerank.template import Layout, Piece, places

Texts = Mapping[str, str]  # of a request: its query and its instruction


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """A layout cut before the document, at white space or a boundary, so that its tokens are those of the whole prompt.

    Attributes:
        head: pieces before the cut, the same for all documents of a request.
        item: pieces from the cut on. Its first is white space in front of the document, or the document.
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
    """Returns the pieces before a place, and those from it on with the white space in front of it: a word's own."""
    before = list(layout[:index])
    space: tuple[Piece, ...] = ()
    if before and before[-1].kind == "text":
        text = before.pop().text
        kept = text.rstrip()
        before += [Piece("text", kept)] if kept else []
        space = (Piece("text", text[len(kept) :]),) if len(kept) < len(text) else ()
    return tuple(before), (*space, *layout[index:])


def encode_pieces(
    tokenizer: Tokenizer, pieces: Sequence[Piece], texts: Texts, *, untrusted: bool
) -> list[int]:
    """Returns the tokens of pieces: of each run of them between boundaries, as one text.

    Args:
        tokenizer: the model's.
        pieces: of a layout.
        texts: what stands in the places that are not fixed text.
        untrusted: special tokens that `texts` spell out are ordinary text.
    """
    tokens: list[int] = []
    spans: list[Span] = []
    for piece in (*pieces, Piece("boundary")):
        if piece.kind == "boundary":
            tokens += encode_spans(tokenizer, spans) if spans else []
            spans = []
        elif piece.kind == "text":
            spans.append(Span(piece.text, trusted=True))
        else:
            spans.append(Span(texts[piece.kind], trusted=not untrusted))
    return tokens
