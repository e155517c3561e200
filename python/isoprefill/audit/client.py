"""Sends requests to a /v1/score server, with limits on time and size."""

import asyncio
import dataclasses
import datetime
import email.utils
import json
import math
import threading
from collections.abc import Sequence
from typing import Any

import httpx

from isoprefill.audit.log_scores import (
    LogScores,
    MalformedScoresError,
    Scale,
    check_scale,
    detect_scale,
    parse_scores,
    to_log,
)
from isoprefill.settings import check_api_key

PATH = "/v1/score"
CONNECT_S = 10.0
# Of an answer: what a generous server says, and no more than can be parsed at once and in little memory.
MAX_BYTES = 1 << 20
MAX_BYTES_OF_ITEM = 1 << 10
MAX_BYTES_OF_SCORE = 64
MAX_ERROR_CHARS = 300
FIRST_PAUSE_S = 1.0  # after 429 from a server that does not say how long; doubled each time
REFUSALS = (400, 413, 422)  # of the input; other codes are faults of the server or the caller

TextOrTokens = str | list[int]


class ServerError(RuntimeError):
    """The server cannot be reached, or does not follow the API; the message says how."""


class MiscountedError(ServerError):
    """The answer has scores, but not one for each item."""


class Rejected(ValueError):  # noqa: N818 - the API provides for this answer
    """The server refuses this input."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The answer of a server."""

    log_scores: LogScores
    prompt_tokens: int | None  # as the server counts them; None if it does not say
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
        """Opens no connection yet.

        Args:
            server_url: without the path, such as http://127.0.0.1:30000.
            model: the name of the model in requests.
            label_token_ids: the labels to score; if None, the server must score items without labels.
            api_key: sent as a bearer token.
            timeout: seconds from the first byte of a request to the last byte of its answer. What a busy server asks to
                wait (429, or 503 with Retry-After) is among them.
            scale: of the scores; detected in the first answer if None.

        Raises:
            ValueError: the address is not an HTTP address, the key does not fit into a header, or the environment's
                proxy is no address.
        """
        _check_url(server_url)
        if math.isnan(timeout):
            raise ValueError("timeout must be a number of seconds, got nan")
        if api_key is not None:
            check_api_key(api_key)
        self.server_url = server_url.rstrip("/")
        self.scale = scale
        self.sends_labels = label_token_ids is not None
        self.num_requests = 0
        self.most_items = 0
        self.most_tokens: int | None = None  # as the server counts them
        self._fields: dict[str, Any] = {"model": model, "apply_softmax": False}
        if label_token_ids is not None:
            self._fields["label_token_ids"] = list(label_token_ids)
        self._timeout = timeout
        self._num_labels = 0 if label_token_ids is None else len(label_token_ids)
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        try:
            self._http = httpx.AsyncClient(
                timeout=httpx.Timeout(None, connect=CONNECT_S),  # `_send` limits the rest
                # What is compressed may be a thousand times as long as it seems.
                headers=headers | {"accept-encoding": "identity"},
                follow_redirects=False,
            )
        except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
            raise ValueError(
                "the proxy or the certificates in the environment (HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE) cannot be "
                f"used: {error}"
            ) from error
        # An event loop in a thread, so that a request can be cancelled at any point. The timeouts of httpx limit
        # single reads, and a server that sends a byte now and then never exceeds them.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """Closes connections, and waits for what closes itself: what is left when a loop stops is told on stderr."""
        await self._http.aclose()
        await self._loop.shutdown_asyncgens()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    def score(self, query: TextOrTokens, items: Sequence[TextOrTokens]) -> Answer:
        """Scores items.

        Raises:
            Rejected: the server refuses this input.
            MiscountedError: there are more or fewer scores than items.
            ServerError: the server cannot be reached, or its answer does not follow the API.
        """
        self.num_requests += 1
        body = {**self._fields, "query": query, "items": list(items)}
        status, content, location = self._post(body, len(items))
        if status // 100 == 3:
            raise ServerError(
                f"{self.server_url}{PATH} answered HTTP {status}, {_led_to(location)}"
            )
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
            # Without labels nothing else has several scores.
            of_classes = "classes" in answer or (not self.sends_labels and sent.shape[1] > 1)
            self.scale = self.scale or detect_scale(sent, of_classes=of_classes)
            check_scale(sent, self.scale)
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

    def _post(self, body: dict[str, Any], num_items: int) -> tuple[int, bytes, str]:
        limit = MAX_BYTES + num_items * (MAX_BYTES_OF_ITEM + self._num_labels * MAX_BYTES_OF_SCORE)
        answer = asyncio.run_coroutine_threadsafe(self._send(body, limit), self._loop)
        try:
            return answer.result()
        except httpx.ConnectTimeout as error:
            raise ServerError(
                f"{self.server_url} cannot be reached within {CONNECT_S:g} seconds"
            ) from error
        except TimeoutError as error:
            raise ServerError(
                f"{self.server_url} did not answer in time: {self._timeout:g} seconds"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            reason = str(error) or type(error).__name__
            raise ServerError(f"{self.server_url} cannot be reached: {reason}") from error
        finally:
            answer.cancel()  # if this thread was interrupted

    async def _send(self, body: dict[str, Any], limit: int) -> tuple[int, bytes, str]:
        """Sends a request, again as often as the server asks for it; returns status, content and Location."""
        pause = FIRST_PAUSE_S
        async with asyncio.timeout(self._timeout) as time_out:
            while True:
                status, content, headers = await self._send_once(body, limit)
                asked = retry_after(headers.get("retry-after"))
                if status != 429 and (status != 503 or asked is None):
                    return status, content, headers.get("location", "")
                wait = pause if asked is None else asked
                pause *= 2
                if self._loop.time() + wait > (time_out.when() or math.inf):
                    raise ServerError(
                        f"{self.server_url}{PATH} answered HTTP {status}: {_error_message(content)} (it asks to wait "
                        f"{wait:g} seconds, which is more than --timeout {self._timeout:g} leaves)"
                    )
                await asyncio.sleep(wait)

    async def _send_once(
        self, body: dict[str, Any], limit: int
    ) -> tuple[int, bytes, httpx.Headers]:
        content = bytearray()
        async with self._http.stream("POST", self.server_url + PATH, json=body) as response:
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > limit:
                    raise ServerError(f"{self.server_url} answered with more than {limit} bytes")
        return response.status_code, bytes(content), response.headers


def retry_after(value: str | None) -> float | None:
    """Returns the seconds that a Retry-After header asks to wait, from now; None if there is none or no sense in it."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


def _led_to(location: str) -> str:
    """Says where a redirect leads, without a password."""
    try:
        url = httpx.URL(location).copy_with(username=None, password=None)
    except (httpx.InvalidURL, ValueError):
        return "a redirect that does not say where to"
    if not location:
        return "a redirect that does not say where to"
    shown = str(url)[:MAX_ERROR_CHARS]
    if url.scheme not in ("", "http", "https"):
        return f"a redirect to {shown!r}, which is no address of HTTP"
    if not url.host:
        return f"a redirect to {shown!r} of the same server"
    return f"a redirect to {shown!r}: if that is the server, give --server-url {shown.removesuffix(PATH)}"


def _check_url(server_url: str) -> None:
    """Raises ValueError unless this is the address of a server and nothing else."""
    if "@" in server_url:
        raise ValueError(
            "server-url must not contain a user name or a password, which reports would show: use --api-key-file"
        )
    try:
        url, reason = httpx.URL(server_url), ""
        good = url.scheme in ("http", "https") and url.host != "" and 0 <= (url.port or 0) < 1 << 16
    except httpx.InvalidURL as error:
        good, reason = False, f": {error}"
    if not good:
        raise ValueError(
            f"server-url must be http://host:port or https://…, got {server_url!r}{reason}"
        )


def _error_message(content: bytes) -> str:
    """Returns the message of an error in the forms that servers use, or the beginning of the text."""
    try:
        error = json.loads(content)
        for key in ("error", "detail", "message"):
            if isinstance(error, dict) and key in error:
                error = error[key]
    except (ValueError, RecursionError):
        error = content.decode("utf-8", "replace")
    text = error if isinstance(error, str) else json.dumps(error)
    return " ".join(text.split())[:MAX_ERROR_CHARS] or "no message"
