"""The HTTP application: the routes, and the steps common to all requests, from the id to the log line."""

import asyncio
import functools
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import isoprefill
from isoprefill.server import (
    completions,
    generative_scoring,
    logs,
    openapi,
    routes_layout,
    routes_page,
    routes_score,
    routes_status,
    routes_tokens,
    scoring,
)
from isoprefill.server.admission import OPEN_PATHS, ApiKey, RateLimiter
from isoprefill.server.bodies import Body, ClientGoneError
from isoprefill.server.connection import SURPLUS
from isoprefill.server.errors import ApiError, server_ends
from isoprefill.server.rerank import info
from isoprefill.server.rerank import routes as routes_rerank
from isoprefill.server.responses import json_response
from isoprefill.server.service import Service

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
LIMITED_METHOD = "POST"
ErrorBody = Callable[[ApiError], dict[str, Any]]
INTERNAL_ERROR = ApiError("internal_error", "Internal server error; the server's log has details.")
CLIENT_GONE = 499  # for logs and metrics; the client is not there to see it


_SCORED = (
    *routes_score.ROUTES,
    generative_scoring.ROUTE,
    completions.ROUTE,
    *routes_rerank.ROUTES,
)


def all_bodies() -> list[type[BaseModel]]:
    """Returns what the bodies of requests are, each once."""
    others = (*routes_layout.BODIES, *routes_tokens.BODIES)
    return list(dict.fromkeys([*others, *(body for route in _SCORED for body in route.bodies)]))


def make_app(service: Service) -> ASGIApp:
    """The application of one server."""
    app = FastAPI(
        title="isoprefill",
        version=isoprefill.__version__,
        description="Scores many items against one query in a single prefill, with no item seeing another.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # a redirected POST is no answer, and no error of ours either
    )
    for route in _SCORED:
        app.include_router(scoring.router(service, route))
    app.include_router(routes_layout.router(service))
    app.include_router(routes_tokens.router(service))
    app.include_router(routes_status.router(service))
    app.include_router(info.router(service))
    if not service.settings.no_page:
        app.include_router(routes_page.router())
    document = functools.cache(lambda: openapi.document(app, service, all_bodies()))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_document() -> Response:
        return json_response(document())

    @app.exception_handler(ApiError)
    @app.exception_handler(ClientGoneError)
    async def expected_error(request: Request, error: ApiError | ClientGoneError) -> Response:
        return error_response(request.scope, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = "method_not_allowed" if error.status_code == 405 else "not_found"
        response = error_response(request.scope, ApiError(code, f"{error.detail}."))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        return error_response(request.scope, INTERNAL_ERROR)

    words = {route.path: route.choose({}).error_body for route in _SCORED}
    return Envelope(ScoringFirst(service, _SCORED, app), service, words)


def error_response(scope: Scope, error: ApiError | ClientGoneError) -> Response:
    if isinstance(error, ClientGoneError):
        scope["state"]["code"] = "client_gone"
        return Response(status_code=CLIENT_GONE)
    scope["state"]["code"] = error.code
    error_body = scope["state"].get("error_body", ApiError.body)
    response = json_response(error_body(error))
    response.status_code = error.status
    response.headers.update(error.headers())
    return response


class ScoringFirst:
    """Answers scoring requests, and hands all others to the application.

    It has the scoring routes too, but its layers take longer than all checks of a small request.
    """

    def __init__(
        self, service: Service, routes: Sequence[scoring.ScoringRoute[Any]], others: ASGIApp
    ) -> None:
        """Takes the scoring routes, and the application that answers elsewhere."""
        self._service = service
        self._routes = {route.path: route for route in routes}
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"])
        if route is None or scope["method"] != "POST":
            await self._others(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await scoring.answer(self._service, route.choose, Request(scope, receive))
        except (ApiError, ClientGoneError) as error:
            response = error_response(scope, error)
        except Exception:
            await error_response(scope, INTERNAL_ERROR)(scope, receive, send)
            raise
        await response(scope, receive, send)


class Envelope:
    """Around every request: its id, the key, the rate limit, the log line and the metrics."""

    def __init__(
        self, app: ASGIApp, service: Service, error_bodies: Mapping[str, ErrorBody]
    ) -> None:
        """Wraps an application.

        Args:
            app: what answers.
            service: whose settings say who may ask.
            error_bodies: for paths whose clients read errors in other words than OpenAI's.
        """
        self._app = app
        self._error_bodies = error_bodies
        self._service = service
        settings = service.settings
        self._key = None if settings.api_key is None else ApiKey(settings.api_key)
        self._without_key = frozenset() if settings.no_page else routes_page.PATHS
        limits = settings.limits
        self._rate = (
            RateLimiter(limits.rate_limit, limits.rate_burst) if limits.rate_limit else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        headers = dict(scope["headers"])  # of one that is there several times, the last
        sent = headers.get(b"x-request-id", b"")
        request_id = (
            sent.decode() if REQUEST_ID.fullmatch(sent) else f"score-{os.urandom(16).hex()}"
        )
        surplus = SURPLUS in scope.get("state", ())
        body = Body(self._service.body_memory, headers, receive)
        state: dict[str, Any] = {"request_id": request_id, "body": body, "code": "", "log": {}}
        if scope["path"] in self._error_bodies:
            state["error_body"] = self._error_bodies[scope["path"]]
        scope["state"] = state
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
                close = surplus
                if body.exists and not body.finished:
                    await body.drop_rest()
                    close |= not body.finished
                if close:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            try:
                self._admit(scope, headers, surplus)
            except ApiError as error:
                await error_response(scope, error)(scope, body, send_with_id)
            else:
                if self._service.tracing is not None and scope["path"] not in OPEN_PATHS:
                    state["trace"] = self._service.tracing.begin(headers, began)
                await self._app(scope, body, send_with_id)
        except asyncio.CancelledError:  # --drain-timeout is over: uvicorn would answer 500, as text
            task = asyncio.current_task()
            if status or not self._service.draining or task is None or task.uncancel():
                raise
            body.leave_rest()
            await error_response(scope, server_ends())(scope, body, send_with_id)
        except Exception as error:  # answered by the application, which hands it on
            logs.event(
                "internal_error",
                logging.ERROR,
                request_id=request_id,
                **logs.exception_fields(error),
            )
        finally:
            body.release()
            self._record(scope, state, status, time.monotonic() - began)

    def _admit(self, scope: Scope, headers: dict[bytes, bytes], surplus: bool) -> None:
        if scope["path"] in OPEN_PATHS:
            return
        if surplus:
            limit = self._service.settings.limits.max_connections
            raise ApiError("queue_full", f"More than {limit} connections are open.")
        if self._key is not None and scope["path"] not in self._without_key:
            self._key.check(headers)
        if self._rate is not None and scope["method"] == LIMITED_METHOD:
            self._rate.check(scope["client"][0] if scope["client"] else "")

    def _record(self, scope: Scope, state: dict[str, Any], status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # never what a client made up
        trace = state.get("trace")
        if trace is not None:
            trace.end(scope["method"], route, status, state["code"], state["log"])
        self._service.metrics.observe_answer(route, status, state["code"], seconds)
        if route in OPEN_PATHS:
            return
        fields = {"request_id": state["request_id"], "route": route, "status": status}
        if state["code"]:
            fields["code"] = state["code"]
        fields["seconds"] = round(seconds, 4)
        if trace is not None:
            fields["trace_id"] = trace.trace_id
        logs.event("request", **fields | state["log"])
