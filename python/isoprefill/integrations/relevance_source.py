"""Relevances of documents for the integrations with retrieval frameworks: in this process, or from a server."""

from collections.abc import Callable, Sequence
from typing import Any

import httpx

from isoprefill.rerank.reranker import Reranker

# Documents of one request: what a server takes by default is 4,096 and 8 MiB.
AT_ONCE = 1_024
RelevanceSource = Callable[[str, Sequence[str]], list[float]]


def check_source(model: str | None, base_url: str | None) -> None:
    """Raises ValueError unless one of a model for this process and a server's address is given."""
    if (model is None) == (base_url is None):
        raise ValueError(
            f"give either model or base_url, got model={model!r} and base_url={base_url!r}"
        )


def relevance_source(
    model: str | None = None,
    base_url: str | None = None,
    *,
    api_key: str | None = None,
    timeout: float = 120.0,
    **options: Any,
) -> RelevanceSource:
    """Returns what gives the relevances of documents to a query, in their order, each between 0 and 1.

    Args:
        model: loaded in this process; or
        base_url: of a running server, without a path.
        api_key: of the server.
        timeout: seconds for one answer of the server.
        **options: of `isoprefill.Reranker`, for a model in this process.

    Raises:
        ValueError: not one of `model` and `base_url` is given, or something that goes with the other.
    """
    check_source(model, base_url)
    if base_url is not None:
        if options:
            raise ValueError(
                f"{', '.join(options)}: how the model is asked is set at the server (docs/rerank.md)"
            )
        return _FromServer(base_url, api_key, timeout)
    assert model is not None
    reranker = Reranker(model, **options)

    def relevances(query: str, documents: Sequence[str]) -> list[float]:
        found = reranker.predict([(query, document) for document in documents])
        return [float(one) for one in found]  # type: ignore[union-attr]

    return relevances


class _FromServer:
    """Asks a server's /v1/rerank."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._client = httpx.Client(
            base_url=base_url.rstrip("/"), headers=headers, timeout=timeout, trust_env=False
        )

    def __call__(self, query: str, documents: Sequence[str]) -> list[float]:
        found: list[float] = []
        for begin in range(0, len(documents), AT_ONCE):
            some = list(documents[begin : begin + AT_ONCE])
            found += self._ask(query, some)
        return found

    def _ask(self, query: str, documents: list[str]) -> list[float]:
        body = {"query": query, "documents": documents, "return_documents": False}
        answer = self._client.post("/v1/rerank", json=body)
        if answer.status_code != 200:
            try:
                reason = str(answer.json()["error"]["message"])
            except (ValueError, KeyError, TypeError):
                reason = answer.reason_phrase
            raise RuntimeError(f"the server answered {answer.status_code}: {reason[:300]}")
        scores = {one["index"]: float(one["relevance_score"]) for one in answer.json()["results"]}
        if sorted(scores) != list(range(len(documents))):
            raise RuntimeError(
                f"the server answered for {len(scores)} of {len(documents)} documents"
            )
        return [scores[index] for index in range(len(documents))]


def best_first(relevances: Sequence[float], most: int | None) -> list[int]:
    """Returns the indices of the most relevant documents; those that are alike keep their order."""
    return sorted(range(len(relevances)), key=lambda index: -relevances[index])[:most]
