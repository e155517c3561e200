"""The HTTP application alone, without a server and a scheduler around it."""

import asyncio
from typing import Any

import httpx

import small_models
from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.models.config.classes import Classes
from isoprefill.models.sources.source import load_tokenizer
from isoprefill.request.model_limits import ModelLimits
from isoprefill.request.preparer import Preparer
from isoprefill.server.front_end import make_app
from isoprefill.server.rerank.start import make_reranker
from isoprefill.server.service import Service
from isoprefill.server.settings import RerankSettings, ServerSettings


def unconnected_service(
    model: str,
    rerank: RerankSettings | None = None,
    classes: Classes | None = None,
    **engine: Any,
) -> Service:
    """A service whose requests get as far as the scheduler, which is not there."""
    settings = ServerSettings(
        engine=EngineSettings(model=model, **engine), rerank=rerank or RerankSettings()
    )
    tokenizer = load_tokenizer(model)
    service = Service(settings, "tiny", tokenizer)
    limits = ModelLimits(small_models.VOCAB_SIZE, 512, 512, 64, classes)
    service.preparer = Preparer(tokenizer, limits)
    service.reranker = make_reranker(settings, service.description, service.preparer)
    service.dispatcher.connect(object())  # nothing is sent
    return service


def ask(service: Service, body: Any, path: str = "/v1/score") -> httpx.Response:
    """The answer to one request."""

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post(path, json=body)

    return asyncio.run(post())
