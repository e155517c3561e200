"""GET /v1/models, /health, /ready and /metrics."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from isoprefill.server.api_models import Model, ModelList, Status
from isoprefill.server.metrics import CONTENT_TYPE
from isoprefill.server.openapi import responses
from isoprefill.server.responses import json_response
from isoprefill.server.service import Service


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["status"])

    def model(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "isoprefill",
            "max_model_len": service.preparer.limits.max_positions if service.preparer else None,
        }

    @routes.get("/v1/models", responses=responses(ModelList, 401, 500), summary="List the models")
    async def models() -> Response:
        return json_response({"object": "list", "data": list(map(model, service.model_names))})

    @routes.get(
        "/v1/models/{name:path}",
        responses=responses(Model, 401, 404, 500),
        summary="Describe a model",
    )
    async def one_model(name: str) -> Response:
        service.check_model(name)
        return json_response(model(service.model_names[0] if name == "default" else name))

    # Load balancers ask with HEAD too.
    @routes.head("/health", include_in_schema=False)
    @routes.get("/health", responses=responses(Status, 500), summary="Is the server alive?")
    async def health() -> Response:
        return json_response({"status": "ok"})

    @routes.head("/ready", include_in_schema=False)
    @routes.get(
        "/ready",
        responses={**responses(Status, 500), 503: {"model": Status}},
        summary="Is the model loaded and warm?",
    )
    async def ready(request: Request) -> Response:
        response = json_response({"status": "ready" if service.ready else "not_ready"})
        response.status_code = 200 if service.ready else 503
        return response

    @routes.get(
        "/metrics",
        responses={
            **responses(Status, 500),
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        },
        response_class=Response,
        summary="Counters in Prometheus's format",
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return routes
