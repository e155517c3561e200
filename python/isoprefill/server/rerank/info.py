"""GET /info: the server as clients of Text Embeddings Inference ask for it before they rerank."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

import isoprefill
from isoprefill.request.errors import RequestError
from isoprefill.server.api_models import ErrorResponse
from isoprefill.server.errors import ApiError
from isoprefill.server.openapi import responses
from isoprefill.server.rerank.bodies import TeiError
from isoprefill.server.responses import json_response
from isoprefill.server.service import Service

LABEL = "relevance"


class TeiLabels(BaseModel):
    """The names of what a reranker says of a document: one number."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class TeiInfo(BaseModel):
    """What is served, and its limits."""

    model_id: str
    model_sha: None
    model_dtype: str = Field(description="The type of the weights.")
    served_model_name: str
    model_type: dict[Literal["reranker"], TeiLabels]
    max_concurrent_requests: int
    max_input_length: int = Field(description="Tokens of a prompt with its document.")
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int = Field(description="Documents of one request.")
    auto_truncate: Literal[False]
    tokenization_workers: int
    version: str
    sha: None
    docker_label: None


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["rerank"])

    @routes.get(
        "/info",
        responses=responses(TeiInfo, 400, 401, 500, 503, error=ErrorResponse | TeiError),
        summary="Describe the reranker, in Text Embeddings Inference's shape",
    )
    async def info() -> Response:
        if service.preparer is None:
            raise service.dispatcher.not_loaded()
        if service.reranker is None:
            raise ApiError.of(RequestError("rerank_unavailable"))
        settings = service.settings
        return json_response(
            {
                "model_id": service.model_names[0],
                "model_sha": None,
                "model_dtype": settings.engine.dtype,
                "served_model_name": service.model_names[0],
                "model_type": {"reranker": {"id2label": {"0": LABEL}, "label2id": {LABEL: 0}}},
                "max_concurrent_requests": settings.limits.max_queue_requests,
                "max_input_length": service.preparer.limits.max_positions,
                "max_batch_tokens": settings.batch.max_tokens,
                "max_batch_requests": settings.batch.max_requests,
                "max_client_batch_size": settings.limits.max_items,
                "auto_truncate": False,
                "tokenization_workers": 1,
                "version": isoprefill.__version__,
                "sha": None,
                "docker_label": None,
            }
        )

    return routes
