"""The settings of a server, checked where they are made.

Each field that is a `setting` is also a flag of `isoprefill serve`. Some of the classes travel to the scheduler process
as JSON.
"""

import dataclasses
import ipaddress
import re
from typing import Any, Literal

from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.modes import Delimiter, Isolation
from isoprefill.request.limits import TokenLimits
from isoprefill.rerank.settings import RerankSettings
from isoprefill.settings import check_api_key, check_bounds, setting

LogFormat = Literal["text", "json"]
UntrustedText = Literal["rerank", "always", "never"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How requests that arrive together are packed together.

    A single item and its query always fit into one prefill, and so do items of one request that have together as many
    tokens as its query.
    """

    max_tokens: int = setting(4096, "Token budget of one prefill.", flag="max-batch-tokens", ge=1)
    max_requests: int = setting(
        64, "Maximum number of requests in one prefill.", flag="max-batch-requests", ge=1
    )
    max_wait_s: float = setting(
        0.002,
        "Milliseconds that the first request waits for others while the device is idle.",
        flag="max-wait-ms",
        scale=1000,
        ge=0,
        le=10_000,
    )

    def __post_init__(self) -> None:
        check_bounds(self)


def _seconds(default: float, purpose: str) -> Any:
    return setting(default, f"Seconds {purpose}", gt=0, lt=86_400)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on one request, and on how much may wait.

    With item_first the query's tokens count for every item. `max_queue_tokens` also counts padded labels; it never
    refuses a request that is alone in the queue. `stall_timeout_s` is for a scheduler that owes answers.
    """

    max_body_bytes: int = setting(8 << 20, "Maximum bytes of one request.", ge=1)
    max_items: int = setting(4096, "Maximum number of items in one request.", ge=1)
    max_item_tokens: int = setting(8192, "Maximum number of tokens of one item.", ge=1)
    max_request_tokens: int = setting(
        131_072, "Maximum number of tokens of a query and its items together.", ge=1
    )
    max_labels: int = setting(1024, "Maximum number of labels of one item.", ge=1)
    max_queue_requests: int = setting(
        256, "Maximum number of unanswered requests; further ones get 429.", ge=1
    )
    max_queue_tokens: int = setting(
        1 << 20, "Maximum number of tokens of all unanswered requests.", ge=1
    )
    max_connections: int = setting(
        1024, "Maximum number of open connections; further ones are refused.", ge=1
    )
    request_timeout_s: float = _seconds(60.0, "to parse a request, and as many again to score it.")
    read_timeout_s: float = _seconds(20.0, "for a client to send its request.")
    write_timeout_s: float = _seconds(20.0, "for a client to receive its answer.")
    drain_timeout_s: float = _seconds(30.0, "after SIGTERM to answer the requests in flight.")
    stall_timeout_s: float = _seconds(
        600.0, "of silence after which a busy scheduler is restarted."
    )
    rate_limit: float = setting(
        0.0, "Requests per second and client address; 0 is no limit.", ge=0, lt=1_000_000_000
    )
    rate_burst: int = setting(20, "Requests that a client may send at once.", ge=1)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.max_item_tokens > self.max_request_tokens:
            raise ValueError(
                f"max-item-tokens ({self.max_item_tokens}) must not be above max-request-tokens "
                f"({self.max_request_tokens})"
            )

    @property
    def tokens(self) -> TokenLimits:
        """Those on tokens."""
        return TokenLimits(
            max_item_tokens=self.max_item_tokens, max_request_tokens=self.max_request_tokens
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Where traces of requests go, and of how many."""

    endpoint: str | None = setting(
        None,
        "Send traces of requests to this OTLP/HTTP address, such as http://localhost:4318/v1/traces. Default: none.",
        flag="otel-endpoint",
    )
    sample_ratio: float = setting(
        1.0,
        "Share of requests that are traced, where the client's traceparent does not say whether.",
        flag="otel-sample-ratio",
        ge=0,
        le=1,
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.endpoint is not None and not _OTLP_ENDPOINT.fullmatch(self.endpoint):
            raise ValueError(
                "otel-endpoint must be an http:// or https:// address without a user and a password (put those into "
                "OTEL_EXPORTER_OTLP_HEADERS), such as http://localhost:4318/v1/traces"
            )


_OTLP_ENDPOINT = re.compile(r"https?://[!-.0->A-~]+(/[!-?A-~]*)?", re.IGNORECASE)
_MODEL_NAME = re.compile(r"[!-~]{1,256}")
CAUSAL_ALGORITHMS = ("auto", "packed")  # those with all items in one prefill


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """All settings of a server.

    Attributes:
        api_key: what clients must send as bearer token; None lets everybody in.
    """

    engine: EngineSettings
    warmup_tokens: tuple[int, ...] = setting(
        (64, 256),
        "Batch sizes, in tokens, to compile for before /ready answers 200: as one request, and as four.",
        ge=2,
    )
    served_model_name: tuple[str, ...] = setting(
        (),
        "Name of the model in answers; give it several times for further names that requests may use. Default: the "
        "model's own.",
    )
    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(30000, "Port to listen on; 0 picks a free one.", ge=0, le=65_535)
    api_key: str | None = dataclasses.field(default=None, repr=False)
    allow_anonymous: bool = setting(
        False, "Allow an address that other machines can reach without an API key."
    )
    isolation: Isolation = setting(
        "isolated",
        "Isolation for requests that do not set it; causal lets items see the items before them.",
    )
    delimiter: Delimiter = setting(
        "none",
        "Whether a delimiter token is placed between items, and which tokens see it (docs/design.md).",
    )
    delimiter_token_id: int | None = setting(None, "The delimiter's token id.", ge=0)
    untrusted_text: UntrustedText = setting(
        "rerank",
        "Where special tokens that a request's texts spell out are ordinary text, unless the request says: in rerank, "
        "always, never.",
    )
    require_labels: bool = setting(
        False, "Refuse requests without labels, as SGLang does, instead of scoring likelihoods."
    )
    batch: BatchSettings = dataclasses.field(default_factory=BatchSettings)
    limits: Limits = dataclasses.field(default_factory=Limits)
    rerank: RerankSettings = dataclasses.field(default_factory=RerankSettings)
    traces: TraceSettings = dataclasses.field(default_factory=TraceSettings)
    no_page: bool = setting(False, "Do not serve the page at /.")
    log_format: LogFormat = setting("text", "Format of the log on stderr.")

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in self.served_model_name:
            if not _MODEL_NAME.fullmatch(name):
                raise ValueError(
                    f"served-model-name must be 1 to 256 printable characters without spaces, got {name!r}"
                )
        if self.api_key is not None:
            check_api_key(self.api_key)
        if self.api_key is None and not self.allow_anonymous and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is reachable from other machines and there is no API key: give one "
                "(--api-key-file or ISOPREFILL_API_KEY), or allow access without a key with --allow-anonymous"
            )
        if (self.delimiter == "none") != (self.delimiter_token_id is None):
            wanted = "no" if self.delimiter == "none" else "a"
            raise ValueError(
                f"delimiter {self.delimiter!r} needs {wanted} delimiter-token-id, got {self.delimiter_token_id}"
            )
        if self.isolation == "causal" and self.engine.algorithm not in CAUSAL_ALGORITHMS:
            raise ValueError(
                f"isolation 'causal' has no meaning with algorithm {self.engine.algorithm!r}: items are not all in "
                f"one prefill; it must be one of {CAUSAL_ALGORITHMS}"
            )
        if self.isolation == "causal" and self.delimiter != "none":
            raise ValueError("isolation 'causal' does not support delimiters: use delimiter 'none'")

    @property
    def allows_causal(self) -> bool:
        """Whether a request may ask for isolation 'causal'."""
        return self.engine.algorithm in CAUSAL_ALGORITHMS and self.delimiter == "none"

    def untrusts(self, asked: bool | None) -> bool:
        """Returns whether special tokens that the texts of a request spell out are ordinary text.

        Args:
            asked: what the request says; None: nothing.
        """
        return self.untrusted_text == "always" if asked is None else asked


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
