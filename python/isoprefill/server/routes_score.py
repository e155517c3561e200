"""POST /v1/score."""

import math
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from isoprefill.request.labels import LabelSets
from isoprefill.request.preparer import Preparer
from isoprefill.request.result import ScoreResult
from isoprefill.request.scores import check_score_options, score_result
from isoprefill.request.token_request import TokenRequest
from isoprefill.server.api_models import ScoreRequest, ScoreResponse
from isoprefill.server.errors import ApiError
from isoprefill.server.openapi import body_of, responses
from isoprefill.server.service import Service

SCORE_BYTES = 20  # of a score as JSON


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["scoring"])

    @routes.post(
        "/v1/score",
        responses=responses(ScoreResponse, 400, 401, 404, 408, 413, 415, 422, 429, 500, 503),
        openapi_extra=body_of(ScoreRequest),
        summary="Score items against a query",
    )
    async def score(request: Request) -> Response:
        request_id: str = request.scope["state"]["request_id"]

        def prepare(asked: ScoreRequest, preparer: Preparer) -> TokenRequest:
            return _token_request(service, asked, preparer, request_id)

        asked, tokens = await service.prepared(
            request, ScoreRequest, prepare, lambda asked: asked.num_joint_characters
        )
        logprobs = await service.scored(request, tokens)

        def respond() -> Response:
            result = score_result(
                tokens,
                logprobs,
                model=service.model_name,
                apply_softmax=asked.apply_softmax,
                temperature=asked.temperature,
            )
            return json_response(_response(asked, result, request_id))

        return await service.run(logprobs.logprobs.size * SCORE_BYTES, respond)

    return routes


def json_response(content: Any) -> Response:
    """What cannot be a number in JSON, such as -inf, becomes null."""
    return Response(msgspec.json.encode(content), media_type="application/json")


def _token_request(
    service: Service, asked: ScoreRequest, preparer: Preparer, request_id: str
) -> TokenRequest:
    service.check_model(asked.model)
    items: Sequence[Any] = [asked.items] if isinstance(asked.items, str) else asked.items
    service.check_number_of_items("items", len(items))
    service.check_joint_size(asked.num_joint_characters)
    for name in ("labels", "label_token_ids"):
        service.check_number_of_labels(name, getattr(asked, name) or (), len(items))
    labels = _labels(asked, preparer)
    if labels is None and service.settings.require_labels:
        raise ApiError(
            "missing_label_token_ids",
            "This server scores by labels only: label_token_ids is missing.",
            "label_token_ids",
        )
    check_score_options(
        has_labels=labels is not None,
        apply_softmax=asked.apply_softmax,
        temperature=asked.temperature,
    )
    isolation = asked.isolation or service.settings.isolation
    if isolation == "causal" and not service.settings.allows_causal:
        raise ApiError(
            "invalid_isolation",
            "This server does not score all items in one prefill without delimiters: isolation 'causal' has no "
            "meaning.",
            "isolation",
        )
    tokens = preparer.request(
        asked.query,
        items,
        labels,
        item_first=asked.item_first,
        isolation=isolation,
        delimiter=service.settings.delimiter,
        delimiter_id=service.settings.delimiter_token_id,
        tokenization=asked.tokenization,
        return_token_logprobs=asked.return_token_logprobs,
        request_id=request_id,
    )
    service.check_size(tokens)
    return tokens


def _labels(asked: ScoreRequest, preparer: Preparer) -> LabelSets | None:
    if asked.labels is None:
        return None if asked.label_token_ids is None else LabelSets.parse(asked.label_token_ids)
    known: dict[str, int] = {}  # lists for each item are mostly alike

    def label_id(text: str, name: str) -> int:
        if text not in known:
            known[text] = preparer.label_id(text, name)
        return known[text]

    return LabelSets.parse(
        [
            label_id(label, f"labels[{index}]")
            if isinstance(label, str)
            else [label_id(one, f"labels[{index}][{place}]") for place, one in enumerate(label)]
            for index, label in enumerate(asked.labels)
        ]
    )


def _response(asked: ScoreRequest, result: ScoreResult, request_id: str) -> dict[str, Any]:
    order = _order(asked.top_n, result)
    response: dict[str, Any] = {
        "id": request_id,
        "object": "scoring",
        "created": int(time.time()),
        "model": result.model,
        "scores": [_score(result, index) for index in order],
        "algorithm": result.algorithm,
        "isolation": result.isolation,
        "usage": {
            "prompt_tokens": result.usage.prompt_tokens,
            "completion_tokens": result.usage.completion_tokens,
            "total_tokens": result.usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": result.cached_tokens},
        },
    }
    if asked.top_n is not None:
        response["indices"] = order
    if asked.return_logprob:
        response["logprobs"] = [_row(result.logprobs, result, index) for index in order]
    if asked.return_token_logprobs and result.token_logprobs is not None:
        response["token_logprobs"] = [result.token_logprobs[index].tolist() for index in order]
    return response


def _order(top_n: int | None, result: ScoreResult) -> list[int]:
    """Indices of the items to return: all as they came, or the best ones first."""
    if top_n is None:
        return list(range(len(result.scores)))
    ranking = result.scores if result.scores.ndim == 1 else result.scores[:, 0]
    order: list[int] = np.argsort(-ranking, kind="stable")[:top_n].tolist()
    return order


def _score(result: ScoreResult, index: int) -> Any:
    if result.num_labels is not None:
        return _row(result.scores, result, index)
    score = float(result.scores[index])
    return {
        "index": index,
        "score": score if math.isfinite(score) else None,
        "num_tokens": int(result.num_tokens[index]),
    }


def _row(values: np.ndarray, result: ScoreResult, index: int) -> Any:
    """An item's value, or its values for as many labels as it has."""
    if result.num_labels is None:
        return float(values[index])
    return values[index, : result.num_labels[index]].tolist()
