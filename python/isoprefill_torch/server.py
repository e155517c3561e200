"""A /v1/score server over PyTorch, to audit and to compare with. Its attention is chosen at the start.

Requests and answers are those of SGLang's endpoint; without labels the score of an item is an object. It scores one
request at a time.
"""

import dataclasses
import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill_torch.packing import Delimiter
from isoprefill_torch.scorer import Method, TorchScorer

MAX_BODY_BYTES = 16 << 20
MAX_ITEMS = 10_000
MAX_TOKENS = 65_536  # of query and items together


class InvalidRequestError(ValueError):
    """A request that is answered with 400."""

    def __init__(self, code: str, param: str, message: str) -> None:
        super().__init__(message)
        self.content = {
            "message": message,
            "type": "invalid_request_error",
            "param": param,
            "code": code,
        }


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """A model with one attention."""

    scorer: TorchScorer
    tokenizer: Tokenizer
    method: Method
    delimiter: Delimiter = "none"
    delimiter_id: int | None = None

    def logprobs(
        self, query: Sequence[int], items: Sequence[Sequence[int]], labels: Sequence[int] | None
    ) -> np.ndarray:
        """Scores as `TorchScorer.logprobs` does."""
        return self.scorer.logprobs(
            query,
            items,
            labels,
            method=self.method,
            delimiter=self.delimiter,
            delimiter_id=self.delimiter_id,
        )


def create_app(backend: Backend) -> FastAPI:
    """Returns the application of the server."""
    app = FastAPI(title="isoprefill torch reference server", docs_url=None, redoc_url=None)
    one_at_a_time = threading.Lock()

    def answer(body: Any) -> dict[str, Any]:
        query, items, labels, apply_softmax = _parse(body, backend)
        with one_at_a_time:
            try:
                logprobs = backend.logprobs(query, items, labels)
            except ValueError as error:
                raise InvalidRequestError("invalid_value", "items", str(error)) from error
        tokens = len(query) + sum(map(len, items))
        return {
            "object": "scoring",
            "model": f"{backend.scorer.model.name}/{backend.method}",
            "scores": _scores(logprobs, labels is not None, apply_softmax),
            "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
        }

    @app.post("/v1/score")
    async def score(request: Request) -> JSONResponse:
        try:
            body = json.loads(await _bounded_body(request))
            return JSONResponse(await run_in_threadpool(answer, body))
        except InvalidRequestError as error:
            refusal = error
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            refusal = InvalidRequestError("invalid_json", "", "the body must be JSON")
        return JSONResponse({"error": refusal.content}, status_code=400)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _scores(logprobs: np.ndarray, by_label: bool, apply_softmax: bool) -> list[Any]:
    if not by_label:
        return [{"score": score} for score in logprobs.tolist()]
    probabilities = np.exp(logprobs)
    if apply_softmax:
        probabilities = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities.tolist()


def _parse(
    body: Any, backend: Backend
) -> tuple[list[int], list[list[int]], list[int] | None, bool]:
    if not isinstance(body, dict):
        raise InvalidRequestError("invalid_json", "", "the body must be a JSON object")
    for name in ("query", "items"):
        if body.get(name) is None:
            raise InvalidRequestError(f"missing_{name}", name, f"{name} is missing")
    if body.get("item_first"):
        raise InvalidRequestError("unsupported", "item_first", "item_first is not supported")
    items = [body["items"]] if isinstance(body["items"], str) else body["items"]
    if not isinstance(items, list) or not items:
        raise InvalidRequestError("empty_items", "items", "items must be a list of at least 1 item")
    if len(items) > MAX_ITEMS:
        raise InvalidRequestError("too_many_items", "items", f"at most {MAX_ITEMS} items")
    query = _tokens("query", body["query"], backend)
    if isinstance(body["query"], str) and backend.tokenizer.adds_bos:
        query = [backend.tokenizer.bos_id or 0, *query]
    parsed = [_tokens(f"items[{index}]", item, backend) for index, item in enumerate(items)]
    total = len(query) + sum(map(len, parsed))
    longest = total if backend.method == "causal" else len(query) + max(map(len, parsed))
    limits = ((total, MAX_TOKENS), (longest, backend.scorer.model.max_positions))
    for tokens, limit in limits:
        if tokens > limit:
            raise InvalidRequestError("too_long", "items", f"{tokens} tokens, at most {limit}")
    labels = body.get("label_token_ids")
    if labels is not None:
        labels = _tokens("label_token_ids", labels, backend)
    return query, parsed, labels, body.get("apply_softmax") is True


def _tokens(name: str, value: Any, backend: Backend) -> list[int]:
    if isinstance(value, str) and name != "label_token_ids":
        try:
            tokens = backend.tokenizer.encode(value, continues=name != "query")
        except ValueError as error:
            raise InvalidRequestError("invalid_text", name, f"{name}: {error}") from error
    elif isinstance(value, list) and all(type(token) is int for token in value):
        tokens = value
    else:
        raise InvalidRequestError("invalid_type", name, f"{name} must be text or token ids")
    if not tokens:
        raise InvalidRequestError("empty", name, f"{name} must hold at least 1 token")
    vocab_size = backend.scorer.model.vocab_size
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        raise InvalidRequestError(
            "token_id_exceeds_vocab", name, f"{name} must hold token ids in [0, {vocab_size})"
        )
    return tokens


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise InvalidRequestError("too_large", "", f"at most {MAX_BODY_BYTES} bytes")
    return bytes(body)
