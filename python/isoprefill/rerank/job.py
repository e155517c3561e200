"""A rerank request in no client's shape."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """How long documents are cut; all limits hold. Without any, what is too long is an error.

    Attributes:
        document_tokens: the most that a document may have.
        prompt_tokens: the most that a whole prompt may have, with the document in it.
        to_fit: as many as the model and the server take.
        keep: which part of a document stays.
    """

    document_tokens: int | None = None
    prompt_tokens: int | None = None
    to_fit: bool = False
    keep: Literal["beginning", "end"] = "beginning"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RerankJob:
    """Documents to compare with a query.

    Attributes:
        query: a text that is not empty.
        documents: texts; those without anything in them get the lowest relevance.
        instruction: what to look for, in words; None is the preset's own.
        truncation: how long documents are cut.
        places: of the documents in the request's list; none if they are the whole list.
        untrusted_text: special tokens in the texts are ordinary text; None is as the server is set.
    """

    query: str
    documents: tuple[str, ...]
    instruction: str | None = None
    truncation: Truncation = Truncation()
    untrusted_text: bool | None = None
    places: tuple[int, ...] = ()

    @property
    def scored(self) -> list[int]:
        """Indices of the documents with something in them."""
        return [index for index, text in enumerate(self.documents) if text.strip()]
