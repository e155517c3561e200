"""The HTTP application over an engine in the same process: real scores without a server's start."""

import asyncio
from typing import Any

import httpx

from isoprefill.execution.engine import ScoringEngine
from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.models.sources.description import describe_model
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import protocol
from isoprefill.server.front_end import make_app
from isoprefill.server.service import Service
from isoprefill.server.settings import ServerSettings


class _Direct:
    """Stands in for the dispatcher: scores at once, one request after another."""

    connected = True

    def __init__(self, engine: ScoringEngine) -> None:
        self._engine = engine

    async def submit(
        self, request: TokenRequest, answer_size: int = 0, trace: object = None
    ) -> RequestLogprobs:
        return self._engine.score_batch([request])[0]


def in_process_service(engine: ScoringEngine, model: str, **settings: Any) -> Service:
    """A service of a loaded model; `settings` are fields of `ServerSettings`."""
    made = ServerSettings(engine=EngineSettings(model=model), **settings)
    service = Service(made, engine.model.name, engine.model.tokenizer, describe_model(model))
    config = engine.model.config
    ready = protocol.Ready(
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        pack_tokens=engine.pack_tokens,
        hidden_size=config.hidden_size,
        classes=engine.preparer.limits.classes,
        device="cpu",
        warmup_s=0.0,
        compilations=0,
    )
    service.on_ready(ready)
    service.dispatcher = _Direct(engine)  # type: ignore[assignment]
    return service


class Client:
    """Sends requests to a service."""

    def __init__(self, service: Service) -> None:
        self._app = make_app(service)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """The answer to one request."""
        return self._send("POST", path, json=body)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """The answer to a request without a body."""
        return self._send("GET", path, headers=headers)

    def head(self, path: str) -> httpx.Response:
        """The answer to a request for headers alone."""
        return self._send("HEAD", path)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())
