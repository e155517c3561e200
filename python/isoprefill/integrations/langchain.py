"""LangChain: a document compressor that orders documents by their relevance. Importing this imports `langchain_core`.

from isoprefill.integrations.langchain import IsoprefillRerank

compressor = IsoprefillRerank(model="smollm2-135m", top_n=3)  # or base_url="http://localhost:30000"
ContextualCompressionRetriever(base_compressor=compressor, base_retriever=…)
"""

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from isoprefill.integrations.extras import needs
from isoprefill.integrations.relevance_source import RelevanceSource, best_first, relevance_source

with needs("langchain"):
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import Document
    from langchain_core.documents.compressor import BaseDocumentCompressor


class IsoprefillRerank(BaseDocumentCompressor):
    """Keeps the most relevant documents, best first, with `relevance_score` in their metadata.

    Attributes:
        model: loaded in this process; or
        base_url: of a running server.
        api_key: of the server.
        top_n: how many documents stay; None: all.
        options: of `isoprefill.Reranker`.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    base_url: str | None = None
    api_key: SecretStr | None = None
    top_n: int | None = Field(3, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)
    _source: RelevanceSource = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Loads the model, or opens the connection."""
        key = None if self.api_key is None else self.api_key.get_secret_value()
        self._source = relevance_source(self.model, self.base_url, api_key=key, **self.options)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Returns copies of the most relevant documents."""
        if not documents:
            return []
        relevances = self._source(query, [document.page_content for document in documents])
        return [
            documents[index].model_copy(
                update={
                    "metadata": documents[index].metadata | {"relevance_score": relevances[index]}
                }
            )
            for index in best_first(relevances, self.top_n)
        ]
