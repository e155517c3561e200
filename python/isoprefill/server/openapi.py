"""The OpenAPI document: made from the models that check requests, with the limits of the running server."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from isoprefill.server.api_models import REQUESTS, ErrorResponse
from isoprefill.server.service import Service

_REFERENCE = "#/components/schemas/{model}"


def responses(success: type[BaseModel], *errors: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a route: the successful one and, in one shape, the errors."""
    return {200: {"model": success}, **{status: {"model": ErrorResponse} for status in errors}}


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The body of a route that reads it itself, within the limits."""
    schema = {"$ref": _REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def document(app: FastAPI, service: Service) -> dict[str, Any]:
    """The whole document."""
    made = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, schemas = models_json_schema(
        [(model, "validation") for model in REQUESTS], ref_template=_REFERENCE
    )
    components = made.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas["$defs"])
    limits = service.settings.limits
    for model, field in (("ScoreRequest", "items"), ("RerankRequest", "documents")):
        _bound_lists(components[model]["properties"][field], limits.max_items)
    if service.settings.api_key is not None:
        made["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        for path, methods in made["paths"].items():
            if path.startswith("/v1/"):
                for method in methods.values():
                    method["security"] = [{"bearer": []}]
    return made


def _bound_lists(schema: dict[str, Any], limit: int) -> None:
    for one in (schema, *schema.get("oneOf", ())):
        if one.get("type") == "array":
            one["maxItems"] = limit
