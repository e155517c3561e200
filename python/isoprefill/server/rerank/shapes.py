"""Whose client sent a body, and the answer as that client reads it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Generic

import numpy as np

from isoprefill.request.errors import RequestError
from isoprefill.request.result import ScoreResult
from isoprefill.rerank.job import RerankJob
from isoprefill.rerank.prompted_model import PromptedModel
from isoprefill.rerank.relevances import Relevances
from isoprefill.server.errors import ApiError
from isoprefill.server.limits import Extent
from isoprefill.server.rerank.bodies import (
    FIRST,
    SECOND,
    PairScoreRequest,
    RerankRequest,
    TeiRequest,
    truncation,
)
from isoprefill.server.responses import usage_of
from isoprefill.server.scoring import Prepared
from isoprefill.server.service import Service
from isoprefill.server.validation import Body

# JSON has no infinity, and clients want a number: the lowest that is a float of theirs.
LOWEST = float(np.finfo(np.float32).min)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a shape makes its answer of.

    Attributes:
        relevances: of each job's documents.
        common: `id`, `created` and `model` of the answer.
        usage: its token counts.
    """

    relevances: Sequence[Relevances]
    common: dict[str, Any]
    usage: dict[str, Any]


class Shape(Generic[Body]):
    """A kind of rerank body: a `scoring.Exchange`."""

    body: type[Body]
    items = "documents"

    def jobs(self, body: Body) -> list[RerankJob]:
        """The jobs of a body."""
        raise NotImplementedError

    def answer(self, body: Body, outcome: Outcome) -> Any:
        """The answer, as JSON will have it."""
        raise NotImplementedError

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """OpenAI's shape, and beside it the message where Cohere's (`message`), Jina's and Voyage's clients look."""
        return error.body() | {"message": error.message, "detail": error.message}

    def extent(self, body: Body, service: Service) -> Extent:
        reranker, jobs = _reranker(service), self.jobs(body)
        return Extent(
            sum(len(job.documents) for job in jobs),
            sum(map(reranker.num_characters, jobs)),
            labels={"label_token_ids": (0, 0) if reranker.labels is not None else ()},
        )

    def prepare(self, body: Body, service: Service, request_id: str) -> Prepared:
        reranker, jobs = _reranker(service), self.jobs(body)
        made = [reranker.request(job, request_id) for job in jobs]

        def respond(results: Sequence[ScoreResult], common: dict[str, Any]) -> Any:
            left = iter(results)
            relevances = [
                reranker.relevances(job, None if request is None else next(left))
                for job, request in zip(jobs, made, strict=True)
            ]
            return self.answer(body, Outcome(relevances, common, usage_of(results)))

        return Prepared([request for request in made if request is not None], respond)


class DocumentsShape(Shape[RerankRequest]):
    """Cohere's, Jina's, Infinity's and llama.cpp's clients: they read different fields of one answer."""

    body = RerankRequest

    def __init__(
        self, *, returns_documents: bool = True, bare_texts: bool = False, version: str = "1"
    ) -> None:
        """Takes what the clients expect.

        Args:
            returns_documents: whether the texts come back if the body does not say.
            bare_texts: they come back as texts, not as objects with a text.
            version: Cohere's, of the path.
        """
        self._returns_documents = returns_documents
        self._bare_texts = bare_texts
        self._version = version

    def jobs(self, body: RerankRequest) -> list[RerankJob]:
        return [body.job(truncates=False)]

    def answer(self, body: RerankRequest, outcome: Outcome) -> Any:
        meta = {"api_version": {"version": self._version}, "billed_units": {"search_units": 1}}
        return outcome.common | {
            "object": "rerank",
            "results": self._results(body, outcome),
            "meta": meta,
            "usage": outcome.usage,
        }

    def _results(self, body: RerankRequest, outcome: Outcome) -> list[dict[str, Any]]:
        (relevances,) = outcome.relevances
        shown = relevances.raw if body.raw_scores else relevances.scores
        results: list[dict[str, Any]] = []
        for index in relevances.best_first()[: body.top_n or body.top_k or None]:
            one: dict[str, Any] = {"index": index, "relevance_score": _finite(shown[index])}
            if _or(body.return_documents, self._returns_documents):
                text = body.texts[index]
                one["document"] = text if self._bare_texts else {"text": text}
            results.append(one)
        return results


class VoyageShape(DocumentsShape):
    """Voyage's client: `top_k`, texts that are cut unless it says otherwise, `data`."""

    def __init__(self) -> None:
        super().__init__(returns_documents=False, bare_texts=True)

    def jobs(self, body: RerankRequest) -> list[RerankJob]:
        return [body.job(truncates=True)]

    def answer(self, body: RerankRequest, outcome: Outcome) -> Any:
        return {
            "object": "list",
            "data": self._results(body, outcome),
            "model": outcome.common["model"],
            "usage": outcome.usage,
        }


class SglangShape(DocumentsShape):
    """SGLang's clients: a bare list."""

    def answer(self, body: RerankRequest, outcome: Outcome) -> Any:
        (relevances,) = outcome.relevances
        texts = body.texts
        returned = _or(body.return_documents, True)
        return [
            {
                "score": _finite(relevances.scores[index]),
                "document": texts[index] if returned else None,
                "index": index,
                "meta_info": {"id": outcome.common["id"]},
            }
            for index in relevances.best_first()[: body.top_n or None]
        ]


class TeiShape(Shape[TeiRequest]):
    """Text Embeddings Inference's clients: `texts`, a bare list, and errors with their type."""

    body = TeiRequest
    items = "texts"

    def jobs(self, body: TeiRequest) -> list[RerankJob]:
        return [body.job]

    def answer(self, body: TeiRequest, outcome: Outcome) -> Any:
        (relevances,) = outcome.relevances
        shown = relevances.raw if body.raw_scores else relevances.scores
        results = []
        for index in relevances.best_first():
            one: dict[str, Any] = {"index": index, "score": _finite(shown[index])}
            if body.return_text:
                one["text"] = body.texts[index]
            results.append(one)
        return results

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return {"error": error.message, "error_type": _TEI_TYPES.get(error.status, "Validation")}


class PairsShape(Shape[PairScoreRequest]):
    """vLLM's score routes."""

    body = PairScoreRequest

    def extent(self, body: PairScoreRequest, service: Service) -> Extent:
        """Counts documents under a name that is not read, too: the OpenAPI document bounds them all."""
        extent = super().extent(body, service)
        given = (getattr(body, name) for name in SECOND)
        longest = max((len(one) for one in given if isinstance(one, list)), default=0)
        return dataclasses.replace(extent, num_items=max(extent.num_items, longest))

    def jobs(self, body: PairScoreRequest) -> list[RerankJob]:
        """One job for each query that differs from the others."""
        cut = truncation(body.truncate_prompt_tokens)
        return [
            RerankJob(
                query=query,
                documents=tuple(body.second[index] for index in indices),
                instruction=body.instruction,
                truncation=cut,
                untrusted_text=body.untrusted_text,
                places=tuple(indices),
            )
            for query, indices in self._by_query(body).items()
        ]

    def answer(self, body: PairScoreRequest, outcome: Outcome) -> Any:
        scores = np.zeros(len(body.second))
        for indices, relevances in zip(
            self._by_query(body).values(), outcome.relevances, strict=True
        ):
            scores[indices] = relevances.scores
        return outcome.common | {
            "object": "list",
            "data": [
                {"index": index, "object": "score", "score": score}
                for index, score in enumerate(scores.tolist())
            ],
            "usage": outcome.usage,
        }

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error.body()

    def _by_query(self, body: PairScoreRequest) -> dict[str, list[int]]:
        queries = body.first
        if len(queries) == 1:
            return {queries[0]: list(range(len(body.second)))}
        indices: dict[str, list[int]] = {}
        for index, query in enumerate(queries):
            indices.setdefault(query, []).append(index)
        return indices


COHERE_1 = DocumentsShape()
COHERE_2 = DocumentsShape(returns_documents=False, version="2")
INFINITY = DocumentsShape(returns_documents=False, bare_texts=True)
VOYAGE = VoyageShape()
SGLANG = SglangShape()
TEI = TeiShape()
PAIRS = PairsShape()


def shape_of_v1(raw: Mapping[str, Any]) -> Shape[Any]:
    """Whose client sent this to /v1/rerank."""
    return VOYAGE if "top_k" in raw else COHERE_1


def shape_of_root(raw: Mapping[str, Any]) -> Shape[Any]:
    """Whose client sent this to /rerank, which is Infinity's own path too."""
    if "texts" in raw:
        return TEI
    if "top_k" not in raw and all(name in raw for name in _INFINITY_SENDS):
        return INFINITY
    return shape_of_v1(raw)


def are_pairs(raw: Mapping[str, Any]) -> bool:
    """Whether a body sent to /v1/score is vLLM's."""
    return "items" not in raw and any(name in raw for name in (*FIRST, *SECOND))


# Infinity's client sends both in every request; no other client of this path knows the first.
_INFINITY_SENDS = ("raw_scores", "return_documents")
_TEI_TYPES = {429: "Overloaded", 500: "Backend", 503: "Unhealthy"}


def _reranker(service: Service) -> PromptedModel:
    if service.reranker is None:
        raise RequestError("rerank_unavailable")
    return service.reranker


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _finite(score: float) -> float:
    return max(float(score), LOWEST)
