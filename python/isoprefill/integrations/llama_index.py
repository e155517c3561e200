"""LlamaIndex: a node postprocessor that orders nodes by their relevance. Importing this imports `llama_index.core`.

from isoprefill.integrations.llama_index import IsoprefillRerank

index.as_query_engine(node_postprocessors=[IsoprefillRerank(model="smollm2-135m", top_n=3)])  # or base_url=…
"""

from typing import Any

from isoprefill.integrations.extras import needs
from isoprefill.integrations.relevance_source import RelevanceSource, best_first, relevance_source

with needs("llama-index"):
    from llama_index.core.bridge.pydantic import Field, PrivateAttr, SecretStr
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle


class IsoprefillRerank(BaseNodePostprocessor):
    """Keeps the most relevant nodes, best first, with their relevances as scores.

    Attributes:
        model: loaded in this process; or
        base_url: of a running server.
        api_key: of the server.
        top_n: how many nodes stay; None: all.
        options: of `isoprefill.Reranker`.
    """

    model: str | None = None
    base_url: str | None = None
    api_key: SecretStr | None = None
    top_n: int | None = Field(default=3, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)
    _source: RelevanceSource = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Loads the model, or opens the connection."""
        super().model_post_init(context)
        key = None if self.api_key is None else self.api_key.get_secret_value()
        self._source = relevance_source(self.model, self.base_url, api_key=key, **self.options)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "IsoprefillRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError(
                "query_bundle is missing: nodes are ordered by their relevance to a query"
            )
        if not nodes:
            return []
        texts = [one.node.get_content(metadata_mode=MetadataMode.EMBED) for one in nodes]
        relevances = self._source(query_bundle.query_str, texts)
        return [
            NodeWithScore(node=nodes[index].node, score=relevances[index])
            for index in best_first(relevances, self.top_n)
        ]
