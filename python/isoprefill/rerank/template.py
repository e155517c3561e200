"""Prompt templates in Jinja's language, laid out once into pieces of fixed text and the places of a request's texts.

A template knows `query`, `document`, `instruction` (empty if there is none) and `boundary`, where the prompt is cut
before it is tokenised: models that were trained on separately tokenised pieces need it. It is rendered when the server
starts, in Jinja's sandbox, with marks in place of the texts; what a request sends is never part of a template.
So a filter on a text cannot work, and is refused.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jinja2
import jinja2.sandbox

PieceKind = Literal["text", "query", "document", "instruction", "boundary"]

# What any filter would change: white space around it, letters of both cases, characters that HTML escapes.
_MARKS = {kind: f" \ufdd0Mark <{kind}>\ufdd1 " for kind in get_args(PieceKind)[1:]}
_MARK = re.compile("|".join(f"(?P<{kind}>{re.escape(mark)})" for kind, mark in _MARKS.items()))


class TemplateError(ValueError):
    """A template that cannot be used; says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a prompt: fixed text, the place of a request's text, or a boundary of tokenisation."""

    kind: PieceKind
    text: str = ""


Layout = tuple[Piece, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A template, laid out with an instruction and without one.

    Attributes:
        with_instruction: the pieces. If there is no place for an instruction, they are those of `without`.
        without: the pieces if there is none.
    """

    with_instruction: Layout
    without: Layout

    @property
    def takes_instruction(self) -> bool:
        return any(piece.kind == "instruction" for piece in self.with_instruction)


@dataclasses.dataclass(frozen=True, slots=True)
class Chat:
    """A model's chat template, which the prompt is put into as a user's message, and the tokens that it may write."""

    template: str
    bos: str = ""


def lay_out(source: str, chat: Chat | None = None) -> Template:
    """Lays out a template.

    Args:
        source: in Jinja's language.
        chat: what the rendered text is the message of.

    Raises:
        TemplateError: it cannot be rendered, or has not one place for the document and one for the query.
    """
    return Template(_layout(source, chat, _MARKS["instruction"]), _layout(source, chat, ""))


def from_placeholders(text: str) -> str:
    """Returns a template of a text with `{query}` and `{document}`, as GGUF files have it."""
    for name in ("query", "document"):
        text = text.replace(f"{{{name}}}", f"{{% endraw %}}{{{{ {name} }}}}{{% raw %}}")
    return f"{{% raw %}}{text}{{% endraw %}}"


def _layout(source: str, chat: Chat | None, instruction: str) -> Layout:
    marks = {kind: _MARKS[kind] for kind in ("query", "document", "boundary")}
    rendered = _render(
        source, {"undefined": jinja2.StrictUndefined}, marks | {"instruction": instruction}
    )
    if chat is not None:
        messages = [{"role": "user", "content": rendered}]
        known = {"messages": messages, "add_generation_prompt": True, "enable_thinking": False}
        options = {"trim_blocks": True, "lstrip_blocks": True}
        rendered = _render(
            chat.template, options, known | {"bos_token": chat.bos, "raise_exception": _refuse}
        )
    pieces, begin = [], 0
    for found in _MARK.finditer(rendered):
        pieces += [Piece("text", rendered[begin : found.start()]), Piece(found.lastgroup)]  # type: ignore[arg-type]
        begin = found.end()
    pieces.append(Piece("text", rendered[begin:]))
    if any("\ufdd0" in piece.text or "\ufdd1" in piece.text for piece in pieces):
        raise TemplateError("it changes the query or the document by a filter, which cannot work")
    for kind in ("query", "document"):
        if (count := sum(piece.kind == kind for piece in pieces)) != 1:
            raise TemplateError(
                f"it must contain {{{{ {kind} }}}} exactly once, found it {count} times"
            )
    return tuple(piece for piece in pieces if piece.kind != "text" or piece.text)


def _render(source: str, options: dict[str, Any], values: dict[str, Any]) -> str:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        keep_trailing_newline=True, autoescape=False, **options
    )
    try:
        return environment.from_string(source).render(values)
    except TemplateError:
        raise
    except Exception as error:  # a template may fail in any way
        raise TemplateError(f"it cannot be rendered: {error}") from error


def _refuse(message: str) -> None:
    raise TemplateError(f"the model's chat template refuses it: {message}")


def places(layout: Sequence[Piece], kind: PieceKind) -> int:
    """Returns the index of the piece of this kind."""
    return next(index for index, piece in enumerate(layout) if piece.kind == kind)
