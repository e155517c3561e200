"""POST /v1/score."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from isoprefill.request.errors import RequestError
from isoprefill.request.labels import LabelSets
from isoprefill.request.preparer import Preparer
from isoprefill.request.result import ScoreResult
from isoprefill.request.token_request import TokenRequest
from isoprefill.server.api_models import ScoreRequest, ScoreResponse
from isoprefill.server.embed_overrides import decoded_overrides
from isoprefill.server.errors import ApiError
from isoprefill.server.limits import Extent
from isoprefill.server.pack_options import pack_options
from isoprefill.server.rerank.bodies import PairScoreRequest, PairScoreResponse
from isoprefill.server.rerank.shapes import PAIRS, are_pairs
from isoprefill.server.responses import usage_of
from isoprefill.server.scoring import Prepared, ScoringRoute
from isoprefill.server.service import Service
from isoprefill.server.settings import ServerSettings


def _prepare(
    body: ScoreRequest, preparer: Preparer, settings: ServerSettings, request_id: str
) -> TokenRequest:
    try:
        return _request(body, preparer, settings, request_id)
    except RequestError as error:
        if error.field == "extraction_token_id":  # which the body has as text
            raise RequestError(error.rule, "score_extraction_token", **error.data) from None
        raise


def _request(
    body: ScoreRequest, preparer: Preparer, settings: ServerSettings, request_id: str
) -> TokenRequest:
    labels = None
    if body.labels is not None:
        labels = preparer.labels(body.labels)
    elif body.label_token_ids is not None:
        labels = LabelSets.parse(body.label_token_ids)
    elif settings.require_labels and preparer.limits.classes is None:
        raise RequestError("missing_label_token_ids.required", "label_token_ids")
    if preparer.limits.classes is not None:
        for field in ("return_logprob", "return_token_logprobs", "return_item_logprobs"):
            if getattr(body, field):
                raise RequestError("classification_model", field)
    elif body.return_token_logprobs and labels is None:
        raise RequestError("missing_label_token_ids.logprobs", "label_token_ids")
    packed = pack_options(body, settings)
    extraction = body.score_extraction_token
    if extraction is not None and body.top_n is not None:
        raise RequestError("invalid_extraction_token.top_n", "top_n")
    options = dataclasses.replace(
        packed,
        labels=labels,
        apply_softmax=body.apply_softmax,
        temperature=body.temperature,
        item_first=body.item_first,
        return_token_logprobs=body.return_item_logprobs,
        extraction_token_id=None
        if extraction is None
        else preparer.label_id(extraction, "score_extraction_token"),
        return_pooled_hidden_states=body.return_pooled_hidden_states,
    )
    overrides = decoded_overrides(
        body.embed_override_token_id,
        body.query_embed_overrides,
        body.item_embed_overrides,
        preparer.limits.hidden_size,
    )
    return preparer.request(
        body.query or "", body.item_list, options, overrides=overrides, request_id=request_id
    )


def _respond(body: ScoreRequest, request: TokenRequest, result: ScoreResult) -> dict[str, Any]:
    order = list(range(result.num_tokens.size))
    if body.top_n is not None:
        order = result.best_first()[: body.top_n]
    response: dict[str, Any] = {
        "scores": [_score(result, index) for index in order],
        "algorithm": result.algorithm,
        "isolation": result.isolation,
        "usage": usage_of((result,)),
    }
    if body.top_n is not None:
        response["indices"] = order
    if body.return_logprob:
        response["logprobs"] = [_row(result.logprobs, result, index) for index in order]
    if body.return_token_logprobs:
        response["token_logprobs"] = [_row(result.logprobs, result, index) for index in order]
    if body.return_item_logprobs and result.token_logprobs is not None:
        response["item_logprobs"] = [result.token_logprobs[index].tolist() for index in order]
    labels, tokens = request.options.labels, result.num_label_tokens
    if labels is not None and tokens is not None and labels.needs_rows:
        response["num_label_tokens"] = [of_item[of_item > 0].tolist() for of_item in tokens[order]]
    if result.classes is not None:
        response["classes"] = result.classes.names
    if result.pooled_hidden_states is not None:
        states = result.pooled_hidden_states
        response["pooled_hidden_states"] = [_of_item(states, result, index) for index in order]
    return response


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
    return _of_item(values[:, : result.num_labels[index]], result, index)


def _of_item(values: np.ndarray, result: ScoreResult, index: int) -> Any:
    """An item's row, or its rows if it is read at several tokens."""
    rows = values[result.rows_of(index)].tolist()
    return rows[0] if result.num_reads is None else rows


class ScoreExchange:
    """Our own shape and SGLang's: a `scoring.Exchange`."""

    body = ScoreRequest
    items = "items"

    def extent(self, body: ScoreRequest, service: Service) -> Extent:
        return body.extent

    def prepare(self, body: ScoreRequest, service: Service, request_id: str) -> Prepared:
        assert service.preparer is not None
        request = _prepare(body, service.preparer, service.settings, request_id)

        def respond(results: Sequence[ScoreResult], common: dict[str, Any]) -> Any:
            return common | {"object": "scoring"} | _respond(body, request, results[0])

        return Prepared([request], respond)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error.body()


SCORE = ScoreExchange()
ROUTES: tuple[ScoringRoute[Any], ...] = (
    ScoringRoute(
        name="score",
        tag="scoring",
        summary="Score items against a query",
        path="/v1/score",
        bodies=(ScoreRequest, PairScoreRequest),
        response=ScoreResponse | PairScoreResponse,
        choose=lambda raw: PAIRS if are_pairs(raw) else SCORE,
    ),
)
