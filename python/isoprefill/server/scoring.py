"""What all scoring routes do with a request: read, parse, check the limits, prepare, score, respond."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any, Generic

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from isoprefill.request.errors import RequestError
from isoprefill.request.preparer import Preparer
from isoprefill.request.result import ScoreResult
from isoprefill.request.scores import score_result
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import limits
from isoprefill.server.dispatch import request_timeout
from isoprefill.server.errors import ApiError
from isoprefill.server.limits import Extent
from isoprefill.server.openapi import body_of, responses
from isoprefill.server.responses import json_response
from isoprefill.server.service import Service
from isoprefill.server.settings import ServerSettings
from isoprefill.server.validation import Body, parse

SCORE_BYTES = 20  # of a score as JSON


@dataclasses.dataclass(frozen=True, slots=True)
class ScoringRoute(Generic[Body]):
    """What one scoring route does in its own way.

    Attributes:
        name, summary: what the OpenAPI document calls it.
        tag: the same, and the kind of object that the answer is.
        paths: where it answers; the document shows the first.
        body: what the body must hold.
        response: what the answer holds.
        items: what the route calls the items.
        extent: says how large a request is.
        prepare: makes tokens of a body; takes the request's id.
        respond: makes of the body and the scores what only this route's answer holds.
    """

    name: str
    tag: str
    summary: str
    paths: tuple[str, ...]
    body: type[Body]
    response: type[BaseModel]
    items: str
    extent: Callable[[Body, ServerSettings], Extent]
    prepare: Callable[[Body, Preparer, ServerSettings, str], TokenRequest]
    respond: Callable[[Body, ScoreResult], dict[str, Any]]


def router(service: Service, route: ScoringRoute[Body]) -> APIRouter:
    """Returns what answers at the paths of a scoring route."""
    routes = APIRouter(tags=[route.tag])

    async def endpoint(request: Request) -> Response:
        return await answer(service, route, request)

    for path in route.paths:
        routes.post(
            path,
            name=route.name,
            responses=responses(route.response, 400, 401, 404, 408, 413, 415, 422, 429, 500, 503),
            openapi_extra=body_of(route.body),
            summary=route.summary,
            include_in_schema=path == route.paths[0],
        )(endpoint)
    return routes


async def answer(service: Service, route: ScoringRoute[Body], request: Request) -> Response:
    """Answers a scoring request.

    Raises:
        ApiError: what is wrong with the request, or why it cannot be scored now.
        ClientGoneError: the client did not wait.
    """
    request_id: str = request.scope["state"]["request_id"]
    try:
        body, tokens, answer_size = await _prepared(service, route, request, request_id)
    except RequestError as error:
        raise ApiError.of(error, route.items) from None
    logprobs = await service.scored(request, tokens, answer_size)

    def respond() -> Response:
        result = score_result(tokens, logprobs, model=service.model_name)
        common = {
            "id": request_id,
            "object": route.tag,
            "created": int(time.time()),
            "model": result.model,
        }
        return json_response(common | route.respond(body, result))

    return await service.run(max(answer_size, logprobs.logprobs.size) * SCORE_BYTES, respond)


async def _prepared(
    service: Service, route: ScoringRoute[Body], request: Request, request_id: str
) -> tuple[Body, TokenRequest, int]:
    """Returns the body, what to score, and how many numbers come back."""
    settings = service.settings
    with service.accepted() as preparer:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ApiError("unsupported_media_type", "The body must be application/json.")
        data: bytes = await request.scope["state"]["body"].read()
        try:
            async with asyncio.timeout(settings.limits.request_timeout_s):
                body = await service.run(len(data), parse, route.body, data)
                service.check_model(body.model)
                extent = route.extent(body, settings)
                limits.check_extent(settings.limits, extent)
                size = max(len(data), extent.num_characters)
                tokens = await service.run(
                    size, route.prepare, body, preparer, settings, request_id
                )
                limits.check_tokens(settings.limits, tokens)
                width = preparer.item_answer_size(tokens.options)
                limits.check_answer(tokens, width)
        except TimeoutError:
            raise request_timeout(settings.limits, "parsed and tokenised") from None
    return body, tokens, int(tokens.reads.sum()) * width
