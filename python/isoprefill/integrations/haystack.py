"""Haystack: a ranker component. Importing this imports `haystack`.

from isoprefill.integrations.haystack import IsoprefillRanker

pipeline.add_component("ranker", IsoprefillRanker(model="smollm2-135m", top_k=3))  # or base_url=…
"""

import dataclasses
from typing import Any

from isoprefill.integrations.extras import needs
from isoprefill.integrations.relevance_source import (
    RelevanceSource,
    best_first,
    check_source,
    relevance_source,
)

with needs("haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.utils import Secret, deserialize_secrets_inplace


@component
class IsoprefillRanker:
    """Keeps the most relevant documents, best first, with their relevances as scores."""

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        api_key: Secret | None = None,
        top_k: int | None = 10,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Loads nothing yet: `warm_up` does.

        Args:
            model: loaded in this process; or
            base_url: of a running server.
            api_key: of the server.
            top_k: how many documents stay; None: all.
            options: of `isoprefill.Reranker`.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        check_source(model, base_url)
        self.model = model
        self.base_url = base_url
        self.api_key = api_key
        self.top_k = top_k
        self.options = options or {}
        self._source: RelevanceSource | None = None

    def warm_up(self) -> None:
        """Loads the model, or opens the connection."""
        if self._source is None:
            key = None if self.api_key is None else self.api_key.resolve_value()
            self._source = relevance_source(self.model, self.base_url, api_key=key, **self.options)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Returns the most relevant documents; those without text count as empty."""
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        if not documents:
            return {"documents": []}
        self.warm_up()
        assert self._source is not None
        relevances = self._source(query, [document.content or "" for document in documents])
        chosen = best_first(relevances, self.top_k if top_k is None else top_k)
        return {
            "documents": [
                dataclasses.replace(documents[index], score=relevances[index]) for index in chosen
            ]
        }

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline's file holds of it; a key only by the name of its environment variable."""
        found: dict[str, Any] = default_to_dict(
            self,
            model=self.model,
            base_url=self.base_url,
            api_key=None if self.api_key is None else self.api_key.to_dict(),
            top_k=self.top_k,
            options=self.options,
        )
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "IsoprefillRanker":
        """Makes it of what `to_dict` returned."""
        deserialize_secrets_inplace(data["init_parameters"], keys=["api_key"])
        made: IsoprefillRanker = default_from_dict(cls, data)
        return made
