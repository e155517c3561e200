"""What all scoring routes do with a request: read, parse, check the limits, prepare, score, respond."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol

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
from isoprefill.server.api_models import ErrorResponse
from isoprefill.server.errors import ApiError
from isoprefill.server.limits import Extent
from isoprefill.server.openapi import body_of, responses
from isoprefill.server.responses import json_response
from isoprefill.server.service import Service
from isoprefill.server.settings import Limits
from isoprefill.server.validation import Body, read_object, validate

ERRORS = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503)
SCORE_BYTES = 20  # of a score as JSON


Respond = Callable[[Sequence[ScoreResult], dict[str, Any]], Any]


class Prepared(NamedTuple):
    """What is scored for a body, and what makes the answer of the scores and of its `id`, `created` and `model`."""

    requests: list[TokenRequest]
    respond: Respond


class Exchange(Protocol[Body]):
    """One kind of body and its answer.

    Attributes:
        body: what the body must hold.
        items: what it calls the items.
    """

    body: type[Body]
    items: str

    def extent(self, body: Body, service: Service) -> Extent:
        """Says how large a request is."""

    def prepare(self, body: Body, service: Service, request_id: str) -> Prepared:
        """Makes the scoring requests of a body."""

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """Words an error as the clients of this kind of body read it."""


Choose = Callable[[Mapping[str, Any]], Exchange[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class ScoringRoute(Generic[Body]):
    """One scoring route.

    Attributes:
        name, summary: what the OpenAPI document calls it.
        tag: a heading of the document.
        path: where it answers.
        bodies: what the body must hold, one of them.
        response: what the answer holds.
        choose: which kind of body an object is.
        error: what an error holds.
    """

    name: str
    tag: str
    summary: str
    path: str
    bodies: tuple[type[BaseModel], ...]
    response: Any
    choose: Choose
    error: Any = ErrorResponse


def router(service: Service, route: ScoringRoute[Body]) -> APIRouter:
    """Returns what answers at the path of a scoring route."""
    routes = APIRouter(tags=[route.tag])

    async def endpoint(request: Request) -> Response:
        return await answer(service, route.choose, request)

    routes.post(
        route.path,
        name=route.name,
        responses=responses(route.response, *ERRORS, error=route.error),
        openapi_extra=body_of(*route.bodies),
        summary=route.summary,
    )(endpoint)
    return routes


async def answer(service: Service, choose: Choose, request: Request) -> Response:
    """Answers a scoring request.

    Raises:
        ApiError: what is wrong with the request, or why it cannot be scored now.
        ClientGoneError: the client did not wait.
    """
    request_id: str = request.scope["state"]["request_id"]
    trace, began = request.scope["state"].get("trace"), time.monotonic()
    try:
        prepared = await _prepared(service, choose, request, request_id)
    finally:
        if trace is not None:
            trace.prepared(began)
    preparer = service.preparer
    assert preparer is not None
    sizes = [one.num_reads * preparer.limits.answer_size(one.options) for one in prepared.requests]
    logprobs = await service.scored(request, prepared.requests, sizes)

    def respond() -> Response:
        results = [
            score_result(one, of, model=service.model_names[0])
            for one, of in zip(prepared.requests, logprobs, strict=True)
        ]
        common = {"id": request_id, "created": int(time.time()), "model": service.model_names[0]}
        return json_response(prepared.respond(results, common))

    numbers = max(sum(sizes), sum(of.logprobs.size for of in logprobs))
    return await service.run(numbers * SCORE_BYTES, respond)


async def read_json(service: Service, request: Request) -> bytes:
    """Returns the body of a request, which must be called JSON.

    Raises:
        ApiError: it is not, or it cannot be read.
        ClientGoneError: the client did not wait.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError("unsupported_media_type", "The body must be application/json.")
    for header, allowed in (("content-encoding", "identity"), ("transfer-encoding", "chunked")):
        names = ",".join(request.headers.getlist(header)).lower().split(",")
        if any(name.strip() not in ("", allowed) for name in names):
            raise ApiError(
                "unsupported_media_type",
                "The body must not be compressed: no Content-Encoding, and of Transfer-Encoding only chunked.",
            )
    data: bytes = await request.scope["state"]["body"].read()
    return data


async def _prepared(
    service: Service, choose: Choose, request: Request, request_id: str
) -> Prepared:
    bounds, state = service.settings.limits, request.scope["state"]
    with service.accepted() as preparer:
        data = await read_json(service, request)
        items, until = choose({}).items, service.deadline()
        try:
            raw = await service.run(len(data), read_object, data, until=until)
            exchange = choose(raw)
            state["error_body"], items = exchange.error_body, exchange.items
            body = await service.run(len(data), validate, exchange.body, raw, until=until)
            service.check_model(body.model)
            extent = exchange.extent(body, service)
            limits.check_extent(bounds, extent)

            def made() -> Prepared:
                prepared = exchange.prepare(body, service, request_id)
                # Beside the event loop too: it is here that labels become trees, which takes seconds for a million.
                _check(bounds, preparer, prepared)
                return prepared

            return await service.run(max(len(data), extent.num_characters), made, until=until)
        except RequestError as error:
            raise ApiError.of(error, items) from None


def _check(bounds: Limits, preparer: Preparer, prepared: Prepared) -> None:
    """Raises RequestError if the requests have too many tokens, or their answers too many numbers."""
    limits.check_all_tokens(bounds, prepared.requests)
    for one in prepared.requests:
        limits.check_answer(one, preparer.limits.answer_size(one.options))
