"""Asks a /v1/score server, with a limit on everything."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from jaxtyping import Float64

from isoprefill.audit.log_scores import (
    MalformedScoresError,
    Scale,
    detect_scale,
    parse_scores,
    to_log,
)

PATH = "/v1/score"
MAX_RESPONSE_BYTES = 64 << 20
MAX_ERROR_CHARS = 300
REFUSALS = (400, 413, 422)  # of the input; other codes are the server's or the caller's trouble

TextOrTokens = str | list[int]


class ServerError(RuntimeError):
    """The server cannot be reached, or does not do what the API says; the message says which and how."""


class MiscountedError(ServerError):
    """The answer has scores, but not one for each item."""


class Rejected(ValueError):  # noqa: N818 - an answer that the API foresees
    """The server does not take this input, and says so."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A server's answer.

    Attributes:
        log_scores: natural logarithms, a row for each item and a column for each label.
        prompt_tokens: as the server counts them, or None if it does not say.
        model: the model's name in the answer.
    """

    log_scores: Float64[np.ndarray, "N L"]
    prompt_tokens: int | None
    model: str


class ScoreClient:
    """A connection to one server. Safe to use from several threads."""

    def __init__(
        self,
        server_url: str,
        *,
        model: str = "default",
        label_token_ids: Sequence[int] | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        scale: Scale | None = None,
    ) -> None:
        """Connects to nothing yet.

        Args:
            server_url: without the path, such as http://127.0.0.1:30000.
            model: the model to ask for.
            label_token_ids: score these labels; without, the server must have a score of its own for an item.
            api_key: sent as a bearer token.
            timeout: seconds to wait for an answer.
            scale: what the scores are; found out from the first answer if None.

        Raises:
            ValueError: the address is not an http one.
        """
        url = httpx.URL(server_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(
                f"server-url must be http://host:port or https://…, got {server_url!r}"
            )
        self.server_url = server_url.rstrip("/")
        self.scale = scale
        self.sends_labels = label_token_ids is not None
        self.num_requests = 0
        self.most_items = 0
        self.most_tokens: int | None = None  # as the server counts them
        self._fields: dict[str, Any] = {"model": model, "apply_softmax": False}
        if label_token_ids is not None:
            self._fields["label_token_ids"] = list(label_token_ids)
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            follow_redirects=False,
        )

    def close(self) -> None:
        self._http.close()

    def score(self, query: TextOrTokens, items: Sequence[TextOrTokens]) -> Answer:
        """Scores items.

        Raises:
            Rejected: the server does not take this input.
            MiscountedError: there are more or fewer scores than items.
            ServerError: there is no server, or its answer is not what the API says.
        """
        self.num_requests += 1
        body = {**self._fields, "query": query, "items": list(items)}
        status, content = self._post(body)
        if status in REFUSALS:
            raise Rejected(f"HTTP {status}: {_error_message(content)}")
        if status != 200:
            raise ServerError(
                f"{self.server_url}{PATH} answered HTTP {status}: {_error_message(content)}"
            )
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ServerError(f"{self.server_url} did not answer with JSON") from error
        if not isinstance(answer, dict):
            raise ServerError(f"{self.server_url} did not answer with a JSON object")
        try:
            sent = parse_scores(answer.get("scores"))
            self.scale = self.scale or detect_scale(sent)
        except MalformedScoresError as error:
            raise ServerError(f"{self.server_url}: {error}") from error
        if len(sent) != len(items):
            raise MiscountedError(
                f"{self.server_url}: scores must have one entry for each of {len(items)} items, got {len(sent)}"
            )
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        tokens = tokens if isinstance(tokens, int) else None
        self.most_items = max(self.most_items, len(items))
        if tokens is not None:
            self.most_tokens = max(self.most_tokens or 0, tokens)
        return Answer(
            to_log(sent, self.scale), tokens, str(answer.get("model", ""))[:MAX_ERROR_CHARS]
        )

    def _post(self, body: dict[str, Any]) -> tuple[int, bytes]:
        try:
            with self._http.stream("POST", self.server_url + PATH, json=body) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MAX_RESPONSE_BYTES:
                        raise ServerError(
                            f"{self.server_url} answered with more than {MAX_RESPONSE_BYTES} bytes"
                        )
                return response.status_code, bytes(content)
        except httpx.TimeoutException as error:
            raise ServerError(f"{self.server_url} did not answer in time ({error})") from error
        except httpx.HTTPError as error:
            raise ServerError(f"{self.server_url} cannot be reached: {error}") from error


def _error_message(content: bytes) -> str:
    """The message of an error in the shapes that servers use, or the beginning of the text."""
    try:
        error = json.loads(content)
        for key in ("error", "detail", "message"):
            if isinstance(error, dict) and key in error:
                error = error[key]
    except (ValueError, RecursionError):
        error = content.decode("utf-8", "replace")
    text = error if isinstance(error, str) else json.dumps(error)
    return " ".join(text.split())[:MAX_ERROR_CHARS] or "no message"
