"""The paths at which clients of several services look for reranking and for scores of pairs."""

from typing import Any

from isoprefill.server.api_models import ErrorResponse
from isoprefill.server.rerank.bodies import (
    PairScoreRequest,
    PairScoreResponse,
    RerankRequest,
    RerankResponse,
    SglangResult,
    TeiError,
    TeiRequest,
    TeiResult,
    VoyageResponse,
)
from isoprefill.server.rerank.shapes import (
    COHERE_2,
    INFINITY,
    PAIRS,
    SGLANG,
    VOYAGE,
    shape_of_root,
    shape_of_v1,
)
from isoprefill.server.scoring import Choose, ScoringRoute


def _route(path: str, choose: Choose, response: object) -> ScoringRoute[Any]:
    return ScoringRoute(
        name=f"rerank {path}",
        tag="rerank",
        summary="Order documents by their relevance to a query",
        path=path,
        bodies=(RerankRequest, TeiRequest) if path == "/rerank" else (RerankRequest,),
        response=response,
        choose=choose,
        error=ErrorResponse | TeiError if path == "/rerank" else ErrorResponse,
    )


ROUTES: tuple[ScoringRoute[Any], ...] = (
    _route("/v1/rerank", shape_of_v1, RerankResponse | VoyageResponse),
    _route("/v2/rerank", lambda raw: COHERE_2, RerankResponse),
    _route("/rerank", shape_of_root, RerankResponse | VoyageResponse | list[TeiResult]),
    _route("/voyage/v1/rerank", lambda raw: VOYAGE, VoyageResponse),
    _route("/infinity/rerank", lambda raw: INFINITY, RerankResponse),
    _route("/sglang/v1/rerank", lambda raw: SGLANG, list[SglangResult]),
    ScoringRoute(
        name="score pairs",
        tag="rerank",
        summary="Score pairs of a query and a document",
        path="/score",
        bodies=(PairScoreRequest,),
        response=PairScoreResponse,
        choose=lambda raw: PAIRS,
    ),
)
