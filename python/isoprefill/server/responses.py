"""Answers in JSON."""

from typing import Any

import msgspec
from starlette.responses import Response

from isoprefill.request.result import ScoreResult


def json_response(content: Any) -> Response:
    """Returns an answer; what cannot be a number in JSON, such as -inf, becomes null."""
    return Response(msgspec.json.encode(content), media_type="application/json")


def usage(result: ScoreResult) -> dict[str, Any]:
    """Returns the token counts, as OpenAI's clients know them."""
    return {
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
        "total_tokens": result.usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": result.cached_tokens},
    }
