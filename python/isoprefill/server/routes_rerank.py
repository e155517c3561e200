"""POST /v1/rerank: documents by their relevance to a query, in the shape that rerank clients know.

The prompt template is cut before {document} and the white space before that: what stands before the cut, with the query
in it, is the query of the scoring request, and what stands after the document ends every item. So the documents are
isolated from each other, and what comes before them is computed once. A document's relevance is
P(yes) / (P(yes) + P(no)).
"""

import time
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from isoprefill.models.tokenizer import Tokenizer
from isoprefill.request.errors import RequestError
from isoprefill.request.labels import LabelSets
from isoprefill.request.preparer import Preparer
from isoprefill.request.scores import score_result
from isoprefill.request.token_request import TokenRequest
from isoprefill.server.api_models import RerankRequest, RerankResponse
from isoprefill.server.errors import ApiError
from isoprefill.server.openapi import body_of, responses
from isoprefill.server.routes_score import json_response
from isoprefill.server.service import Service
from isoprefill.server.settings import RerankSettings


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["rerank"])

    async def rerank(request: Request) -> Response:
        request_id: str = request.scope["state"]["request_id"]

        def prepare(asked: RerankRequest, preparer: Preparer) -> TokenRequest:
            return _token_request(service, asked, preparer, request_id)

        template = len(service.settings.rerank.template)
        asked, tokens = await service.prepared(
            request, RerankRequest, prepare, lambda asked: template * len(asked.documents)
        )
        result = score_result(
            tokens,
            await service.scored(request, tokens),
            model=service.model_name,
            apply_softmax=True,
        )
        relevance = result.scores[:, 0]
        results: list[dict[str, Any]] = []
        for index in np.argsort(-relevance, kind="stable")[: asked.top_n].tolist():
            one: dict[str, Any] = {"index": index, "relevance_score": float(relevance[index])}
            if asked.return_documents is not False:
                one["document"] = {"text": _text(asked.documents[index])}
            results.append(one)
        return json_response(
            {
                "id": request_id,
                "object": "rerank",
                "created": int(time.time()),
                "model": result.model,
                "results": results,
                "usage": {
                    "prompt_tokens": result.usage.prompt_tokens,
                    "completion_tokens": 0,
                    "total_tokens": result.usage.total_tokens,
                    "prompt_tokens_details": {"cached_tokens": result.cached_tokens},
                },
            }
        )

    # The places where Jina's, vLLM's and SGLang's clients look, and Cohere's newer one.
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        routes.post(
            path,
            responses=responses(RerankResponse, 400, 401, 404, 408, 413, 415, 422, 429, 500, 503),
            openapi_extra=body_of(RerankRequest),
            summary="Order documents by their relevance to a query",
            include_in_schema=path == "/v1/rerank",
        )(rerank)
    return routes


def unusable_label(preparer: Preparer, settings: RerankSettings) -> str | None:
    """The label that this model cannot say in one token, if there is one."""
    for label in (settings.relevant, settings.irrelevant):
        try:
            preparer.label_id(label)
        except RequestError:
            return label
    return None


def _token_request(
    service: Service, asked: RerankRequest, preparer: Preparer, request_id: str
) -> TokenRequest:
    settings = service.settings.rerank
    service.check_model(asked.model)
    service.check_number_of_items("documents", len(asked.documents))
    if unusable_label(preparer, settings) is not None:
        raise ApiError(
            "rerank_unavailable",
            "The model has no single token for the labels of this server's rerank prompt.",
        )
    before, after = settings.template.split("{document}")
    head = before.rstrip()  # the white space belongs to the document's first token
    space = before[len(head) :]
    documents = [_text(document) for document in asked.documents]
    try:
        if asked.max_tokens_per_doc is not None:
            documents = [
                _beginning(service.tokenizer, text, asked.max_tokens_per_doc) for text in documents
            ]
        labels = (settings.relevant, settings.irrelevant)
        service.check_number_of_labels("label_token_ids", labels, len(documents))
        tokens = preparer.request(
            head.replace("{query}", asked.query),
            [space + document + after for document in documents],
            LabelSets.shared(
                [preparer.label_id(settings.relevant), preparer.label_id(settings.irrelevant)]
            ),
            delimiter=service.settings.delimiter,
            delimiter_id=service.settings.delimiter_token_id,
            request_id=request_id,
        )
        service.check_size(tokens)
    except (RequestError, ApiError) as error:
        # What is called items inside is called documents here.
        raise ApiError(
            error.code.replace("_item", "_document"),
            str(error.args[0] if isinstance(error, RequestError) else error.message).replace(
                "items", "documents"
            ),
            (error.param or "").replace("items", "documents") or None,
        ) from None
    return tokens


def _beginning(tokenizer: Tokenizer, text: str, most: int) -> str:
    """The text, or what its first `most` tokens spell, without a character that the cut goes through."""
    tokens = tokenizer.encode(text)
    if len(tokens) <= most:
        return text
    return tokenizer.decode(tokens[:most]).rstrip("\ufffd")


def _text(document: Any) -> str:
    return document if isinstance(document, str) else document.text
