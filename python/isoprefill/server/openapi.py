"""The OpenAPI document: made from the models that check requests, with the limits of the running server."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from isoprefill.server.admission import OPEN_PATHS
from isoprefill.server.api_models import ErrorResponse
from isoprefill.server.service import Service

# Fields whose length is the number of items.
_ITEMS = ("items", "documents", "texts", "text_2", "data_2")
_REFERENCE = "#/components/schemas/{model}"


def responses(
    success: Any, *errors: int, error: Any = ErrorResponse
) -> dict[int | str, dict[str, Any]]:
    """The answers of a route: the successful one and, in one shape, the errors."""
    return {200: {"model": success}, **{status: {"model": error} for status in errors}}


def body_of(*models: type[BaseModel]) -> dict[str, Any]:
    """The body of a route that reads it itself, within the limits: one of the models."""
    references = [{"$ref": _REFERENCE.format(model=model.__name__)} for model in models]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def document(app: FastAPI, service: Service, bodies: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The whole document; `bodies` are what requests must hold."""
    made = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, schemas = models_json_schema(
        [(model, "validation") for model in bodies], ref_template=_REFERENCE
    )
    components = made.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas["$defs"])
    limits = service.settings.limits
    for schema in schemas["$defs"].values():
        for field in _ITEMS:
            if field in schema.get("properties", ()):
                _bound_lists(schema["properties"][field], limits.max_items)
    if service.settings.api_key is not None:
        made["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        for path, methods in made["paths"].items():
            if path not in OPEN_PATHS:
                for method in methods.values():
                    method["security"] = [{"bearer": []}]
    return made


def _bound_lists(schema: dict[str, Any], limit: int) -> None:
    for one in schema.get("anyOf", ()):
        _bound_lists(one, limit)
    for one in (schema, *schema.get("oneOf", ())):
        if one.get("type") == "array":
            one["maxItems"] = limit
