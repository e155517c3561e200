"""What a server is told when it starts; checked where it is made.

The structs travel to the scheduler process as JSON.
"""

import ipaddress
from typing import Literal

import msgspec

from isoprefill.api_key import check_api_key
from isoprefill.modes import Delimiter, Isolation

LogFormat = Literal["text", "json"]


def _at_least(flag: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{flag} must be at least {least}, got {value}")


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the scheduler process makes and warms its engine.

    Attributes:
        model: a pinned name, a .gguf file or a Hugging Face directory.
        dtype: of the weights.
        algorithm: how scores are computed; see `ScoringEngine.score`.
        attention: back end of the attention.
        warmup_tokens: sizes of requests that are scored before the server says that it is ready.
        prefix_cache_bytes: what the keys and values of queries may take; 0 keeps none, None is the engine's default.
        mesh: devices to share the work out to, such as "data=2,tensor=3"; None is one.
    """

    model: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    algorithm: str = "auto"
    attention: str = "auto"
    warmup_tokens: tuple[int, ...] = (64,)
    prefix_cache_bytes: int | None = None
    mesh: str | None = None

    def __post_init__(self) -> None:
        for size in self.warmup_tokens:
            if size < 2:
                raise ValueError(f"warmup-tokens must be at least 2 each, got {size}")
        if self.prefix_cache_bytes is not None:
            _at_least("prefix-cache-bytes", self.prefix_cache_bytes, 0)


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests that arrive together are packed together.

    Attributes:
        max_tokens: token budget of one prefill. A single item and its query always fit, and items of one request that
            have together as many tokens as its query.
        max_requests: requests in one prefill; 1 switches packing across requests off.
        max_wait_s: how long the first request of a batch waits for others while the device is idle.
    """

    max_tokens: int = 4096
    max_requests: int = 64
    max_wait_s: float = 0.002

    def __post_init__(self) -> None:
        _at_least("max-batch-tokens", self.max_tokens, 1)
        _at_least("max-batch-requests", self.max_requests, 1)
        if not 0 <= self.max_wait_s <= 10:
            raise ValueError(
                f"max-wait-ms must be between 0 and 10000, got {self.max_wait_s * 1000:g}"
            )


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client may ask for, and how much of it may wait.

    Attributes:
        max_body_bytes: of one HTTP request.
        max_items: items of one request.
        max_item_tokens: tokens of one item.
        max_request_tokens: tokens of the query and all items together; with item_first the query counts for every item.
        max_labels: labels of one item.
        max_queue_requests: requests accepted and not yet answered.
        max_queue_tokens: tokens and padded labels of those requests together. One that is alone is always accepted.
        max_connections: open connections.
        request_timeout_s: to parse and tokenise a request, and as long again to have it scored.
        read_timeout_s: for a client to send its request, headers and body.
        write_timeout_s: for a client to take what was written to it.
        drain_timeout_s: for requests in flight after SIGTERM.
        stall_timeout_s: after which a scheduler that owes answers and says nothing is killed and started again.
        rate_limit: requests per second and client address; 0 is no limit.
        rate_burst: how many requests a client may send at once before the rate limit counts.
    """

    max_body_bytes: int = 8 << 20
    max_items: int = 4096
    max_item_tokens: int = 8192
    max_request_tokens: int = 131_072
    max_labels: int = 1024
    max_queue_requests: int = 256
    max_queue_tokens: int = 1 << 20
    max_connections: int = 1024
    request_timeout_s: float = 60.0
    read_timeout_s: float = 20.0
    write_timeout_s: float = 20.0
    drain_timeout_s: float = 30.0
    stall_timeout_s: float = 600.0
    rate_limit: float = 0.0
    rate_burst: int = 20

    def __post_init__(self) -> None:
        for name in (
            "max_body_bytes",
            "max_items",
            "max_item_tokens",
            "max_request_tokens",
            "max_labels",
            "max_queue_requests",
            "max_queue_tokens",
            "max_connections",
            "rate_burst",
        ):
            _at_least(name.replace("_", "-"), getattr(self, name), 1)
        for name in (
            "request_timeout_s",
            "read_timeout_s",
            "write_timeout_s",
            "drain_timeout_s",
            "stall_timeout_s",
        ):
            if not 0 < getattr(self, name) < 86_400:
                flag = name.removesuffix("_s").replace("_", "-")
                raise ValueError(
                    f"{flag} must be above 0 and below 86400 seconds, got {getattr(self, name)}"
                )
        if not 0 <= self.rate_limit < 1e9:
            raise ValueError(f"rate-limit must be at least 0 and finite, got {self.rate_limit}")
        if self.max_item_tokens > self.max_request_tokens:
            raise ValueError(
                f"max-item-tokens ({self.max_item_tokens}) must not be above max-request-tokens "
                f"({self.max_request_tokens})"
            )


class RerankSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How /v1/rerank asks the model whether a document is relevant.

    Attributes:
        template: text with {query} and, after it, {document}.
        relevant: the label that says yes; one token.
        irrelevant: the label that says no; one token.
    """

    template: str = "Question: Is the following text about {query}?\nText: {document}\nAnswer:"
    relevant: str = " Yes"
    irrelevant: str = " No"

    def __post_init__(self) -> None:
        for name in ("{query}", "{document}"):
            if self.template.count(name) != 1:
                raise ValueError(
                    f"rerank-template must hold {name} once, got it {self.template.count(name)} times"
                )
        if self.template.index("{query}") > self.template.index("{document}"):
            raise ValueError(
                "rerank-template must have {query} before {document}: what is before the document is computed once"
            )
        if self.relevant == self.irrelevant:
            raise ValueError(f"rerank-yes and rerank-no must differ, both are {self.relevant!r}")


CAUSAL_ALGORITHMS = ("auto", "packed")  # those with all items in one prefill


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a server is told.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        api_key: what clients must send as bearer token; None lets everybody in.
        allow_anonymous: listening beyond this machine without a key is meant.
        isolation: of requests that do not say.
        delimiter: see docs/design.md.
        delimiter_token_id: the delimiter, unless the mode is "none".
        require_labels: refuse likelihood scoring, as SGLang's server does.
        log_format: of the lines on stderr.
    """

    engine: EngineSettings
    host: str = "127.0.0.1"
    port: int = 30000
    api_key: str | None = None
    allow_anonymous: bool = False
    isolation: Isolation = "isolated"
    delimiter: Delimiter = "none"
    delimiter_token_id: int | None = None
    require_labels: bool = False
    batch: BatchSettings = msgspec.field(default_factory=BatchSettings)
    limits: Limits = msgspec.field(default_factory=Limits)
    rerank: RerankSettings = msgspec.field(default_factory=RerankSettings)
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be between 0 and 65535, got {self.port}")
        if self.api_key is not None:
            check_api_key(self.api_key)
        if self.api_key is None and not self.allow_anonymous and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is reachable from other machines and there is no API key: give one "
                "(--api-key-file or ISOPREFILL_API_KEY), or say that it is meant with --allow-anonymous"
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
            raise ValueError("isolation 'causal' has no delimiters: use delimiter 'none'")

    @property
    def allows_causal(self) -> bool:
        """Whether a request may ask for isolation 'causal'."""
        return self.engine.algorithm in CAUSAL_ALGORITHMS and self.delimiter == "none"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
