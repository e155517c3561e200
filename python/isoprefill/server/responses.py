"""Answers in JSON."""

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from isoprefill.request.result import ScoreResult


def json_response(content: Any) -> Response:
    """Returns an answer; what cannot be a number in JSON, such as -inf, becomes null."""
    return Response(msgspec.json.encode(content), media_type="application/json")


def usage_of(results: Sequence[ScoreResult]) -> dict[str, Any]:
    """Returns the token counts of all results together, as OpenAI's clients know them."""
    prompt_tokens = sum(result.usage.prompt_tokens for result in results)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 0,
        "total_tokens": prompt_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(result.cached_tokens for result in results)},
    }
