"""How a model is asked to rerank: what a caller sets, checked where it is made. For the server each is also a flag."""

import dataclasses
from typing import Literal

from isoprefill.rerank.template import TemplateError, lay_out
from isoprefill.settings import check_bounds, setting

RerankPreset = Literal[
    "auto", "chat", "qwen3-reranker", "mxbai-v2", "bge-gemma", "query-likelihood", "none"
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RerankSettings:
    """How the model is asked whether a document is relevant: a preset, or a template of one's own.

    Attributes:
        yes, no: the labels that were set, as text or token ids; None leaves the preset's.
    """

    preset: RerankPreset = setting(
        "auto",
        "How the model is asked (docs/rerank.md); what auto chooses, and why, is logged. none refuses to rerank.",
        flag="rerank-preset",
    )
    template: str | None = setting(
        None,
        "Prompt instead of a preset's, in Jinja's language, with {{ query }} and {{ document }}.",
        flag="rerank-template",
    )
    yes_text: str | None = setting(
        None, "Label of a relevant document, one token. Default: the preset's.", flag="rerank-yes"
    )
    no_text: str | None = setting(
        None, "Label of an irrelevant document, one token. Default: the preset's.", flag="rerank-no"
    )
    yes_id: int | None = setting(
        None, "Token id of the label of a relevant document.", flag="rerank-yes-id", ge=0
    )
    no_id: int | None = setting(
        None, "Token id of the label of an irrelevant document.", flag="rerank-no-id", ge=0
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.template is not None and self.preset != "auto":
            raise ValueError("give either rerank-template or rerank-preset, not both")
        if self.template is not None:
            _check_template(self.template)
        for name in ("yes", "no"):
            if None not in (getattr(self, f"{name}_text"), getattr(self, f"{name}_id")):
                raise ValueError(f"give either rerank-{name} or rerank-{name}-id, not both")
        if self.yes is not None and self.yes == self.no:
            raise ValueError(f"rerank-yes and rerank-no must differ, both are {self.yes!r}")
        if self.preset in ("query-likelihood", "none") and (self.yes, self.no) != (None, None):
            raise ValueError(
                f"rerank-yes and rerank-no have no meaning with rerank-preset {self.preset}"
            )

    @property
    def yes(self) -> str | int | None:
        return self.yes_text if self.yes_id is None else self.yes_id

    @property
    def no(self) -> str | int | None:
        return self.no_text if self.no_id is None else self.no_id


def _check_template(source: str) -> None:
    """Raises ValueError if no model could be asked with this template."""
    try:
        template = lay_out(source)
    except TemplateError as error:
        raise ValueError(f"rerank-template: {error}") from None
    if any("\\n" in piece.text for piece in (*template.with_instruction, *template.without)):
        raise ValueError(
            "rerank-template: it has a backslash and an n where a line break was meant: write one, in a shell $'…\\n…'"
        )
