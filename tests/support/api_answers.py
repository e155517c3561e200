"""What an answer of the HTTP API holds."""

from typing import Any

import httpx

from isoprefill.server.errors import CODES


def code_of(response: httpx.Response) -> str:
    """The code of an error in OpenAI's shape."""
    answer = response.json()
    assert set(answer) - {"message", "detail"} == {"error"}, (
        response.text
    )  # the others are for clients of rerank
    error = answer["error"]
    assert {answer.get("message"), answer.get("detail")} <= {None, error["message"]}
    assert set(error) == {"message", "type", "param", "code"}
    assert CODES[error["code"]] == (response.status_code, error["type"])
    assert error["message"]
    code: str = error["code"]
    return code


def likelihoods(answer: dict[str, Any]) -> list[float]:
    """The scores of an answer without labels, which come in the order of the items."""
    assert [one["index"] for one in answer["scores"]] == list(range(len(answer["scores"])))
    return [one["score"] for one in answer["scores"]]
