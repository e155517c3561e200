"""Serves POST /v1/score and /v1/rerank over HTTP: docs/api.md has the API, docs/operations.md flags and metrics."""

import os
import sys
from pathlib import Path
from typing import Any, get_args

from absl import flags

from isoprefill.api_key import read_api_key
from isoprefill.models.pinned import FetchError
from isoprefill.modes import Algorithm, Backend
from isoprefill.server.settings import (
    BatchSettings,
    EngineSettings,
    Limits,
    RerankSettings,
    ServerSettings,
)

_LIMITS, _BATCH, _RERANK = Limits(), BatchSettings(), RerankSettings()

_MODEL = flags.DEFINE_string(
    "model", "smollm2-135m", "A pinned model's name, a .gguf file, or a directory with safetensors."
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the weights.")
_ALGORITHM = flags.DEFINE_enum(
    "algorithm", "auto", ["auto", *get_args(Algorithm)], "How to compute the scores."
)
_ATTENTION = flags.DEFINE_enum("attention", "auto", get_args(Backend), "Attention back end.")
_WARMUP = flags.DEFINE_list(
    "warmup-tokens",
    ["64", "256"],
    "Sizes of batches, in tokens, that are scored before /ready says yes: of one request and of four.",
)
_PREFIX_CACHE_BYTES = flags.DEFINE_integer(
    "prefix-cache-bytes",
    None,
    "What the keys and values of queries may take between requests (512 MiB unless given); 0 keeps none.",
)
_MESH = flags.DEFINE_string(
    "mesh", None, "Devices to share the work out to, such as data=2,tensor=3; without, one."
)

_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
_PORT = flags.DEFINE_integer("port", 30000, "Port to listen on; 0 takes a free one.")
_API_KEY_FILE = flags.DEFINE_string(
    "api-key-file",
    None,
    "File that holds the API key; else ISOPREFILL_API_KEY, else there is none.",
)
_ANONYMOUS = flags.DEFINE_bool(
    "allow-anonymous", False, "Listen on other than loopback addresses without an API key."
)
_LOG_FORMAT = flags.DEFINE_enum("log-format", "text", ["text", "json"], "Log lines on stderr.")

_ISOLATION = flags.DEFINE_enum(
    "isolation", "isolated", ["isolated", "causal"], "Of requests that do not say."
)
_DELIMITER = flags.DEFINE_enum(
    "delimiter", "none", ["none", "hidden", "prefix_first"], "Delimiter mode (docs/design.md)."
)
_DELIMITER_ID = flags.DEFINE_integer("delimiter-token-id", None, "The delimiter token.")
_REQUIRE_LABELS = flags.DEFINE_bool(
    "require-labels", False, "Refuse requests without labels instead of scoring likelihoods."
)

_BATCH_TOKENS = flags.DEFINE_integer(
    "max-batch-tokens", _BATCH.max_tokens, "Token budget of one prefill."
)
_BATCH_REQUESTS = flags.DEFINE_integer(
    "max-batch-requests", _BATCH.max_requests, "Requests in one prefill; 1 packs none together."
)
_WAIT_MS = flags.DEFINE_float(
    "max-wait-ms", _BATCH.max_wait_s * 1000, "How long a first request waits for others."
)

_BODY_BYTES = flags.DEFINE_integer(
    "max-body-bytes", _LIMITS.max_body_bytes, "Bytes of one request."
)
_ITEMS = flags.DEFINE_integer("max-items", _LIMITS.max_items, "Items of one request.")
_ITEM_TOKENS = flags.DEFINE_integer(
    "max-item-tokens", _LIMITS.max_item_tokens, "Tokens of one item."
)
_REQUEST_TOKENS = flags.DEFINE_integer(
    "max-request-tokens", _LIMITS.max_request_tokens, "Tokens of one request."
)
_MAX_LABELS = flags.DEFINE_integer("max-labels", _LIMITS.max_labels, "Labels of one item.")
_QUEUE_REQUESTS = flags.DEFINE_integer(
    "max-queue-requests", _LIMITS.max_queue_requests, "Requests that may wait; more get 429."
)
_QUEUE_TOKENS = flags.DEFINE_integer(
    "max-queue-tokens", _LIMITS.max_queue_tokens, "Tokens that may wait; more get 429."
)
_CONNECTIONS = flags.DEFINE_integer(
    "max-connections", _LIMITS.max_connections, "Open connections; more are refused and closed."
)
_REQUEST_TIMEOUT = flags.DEFINE_float(
    "request-timeout",
    _LIMITS.request_timeout_s,
    "Seconds to parse and tokenise a request, and as many again to have it scored.",
)
_READ_TIMEOUT = flags.DEFINE_float(
    "read-timeout", _LIMITS.read_timeout_s, "Seconds for a client to send its request."
)
_WRITE_TIMEOUT = flags.DEFINE_float(
    "write-timeout", _LIMITS.write_timeout_s, "Seconds for a client to take its answer."
)
_DRAIN_TIMEOUT = flags.DEFINE_float(
    "drain-timeout", _LIMITS.drain_timeout_s, "Seconds for requests in flight after SIGTERM."
)
_STALL_TIMEOUT = flags.DEFINE_float(
    "stall-timeout",
    _LIMITS.stall_timeout_s,
    "Seconds after which a scheduler that owes answers and says nothing is started anew.",
)
_RATE_LIMIT = flags.DEFINE_float(
    "rate-limit", _LIMITS.rate_limit, "Requests per second and client address; 0 is no limit."
)
_RATE_BURST = flags.DEFINE_integer(
    "rate-burst", _LIMITS.rate_burst, "Requests that a client may send at once."
)

_TEMPLATE = flags.DEFINE_string(
    "rerank-template", _RERANK.template, "Prompt of /v1/rerank, with {query} and then {document}."
)
_YES = flags.DEFINE_string("rerank-yes", _RERANK.relevant, "Label that says: relevant.")
_NO = flags.DEFINE_string("rerank-no", _RERANK.irrelevant, "Label that says: not relevant.")


def main(argv: list[str]) -> None:
    """Runs the command. Flags that cannot be served end it with one line on stderr and exit status 2."""
    try:
        # `bazel run` starts programs elsewhere and leaves the user's directory here; files are relative to it.
        os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        settings = _settings()

        from isoprefill.server.launch import serve
        from isoprefill.server.supervisor import StartError

        try:
            serve(settings)
        except StartError as error:
            raise ValueError(str(error)) from error
    except (ValueError, OSError, FetchError) as error:
        print(f"serve: {error}", file=sys.stderr)
        sys.exit(2)


def _settings() -> ServerSettings:
    try:
        warmup = tuple(int(size) for size in _WARMUP.value if size)
    except ValueError:
        raise ValueError(f"warmup-tokens must be integers, got {_WARMUP.value}") from None
    return ServerSettings(
        engine=EngineSettings(
            model=_MODEL.value,
            dtype=_choice(_DTYPE),
            algorithm=_ALGORITHM.value,
            attention=_ATTENTION.value,
            warmup_tokens=warmup,
            prefix_cache_bytes=_PREFIX_CACHE_BYTES.value,
            mesh=_MESH.value,
        ),
        host=_HOST.value,
        port=_PORT.value,
        api_key=_api_key(),
        allow_anonymous=_ANONYMOUS.value,
        isolation=_choice(_ISOLATION),
        delimiter=_choice(_DELIMITER),
        delimiter_token_id=_DELIMITER_ID.value,
        require_labels=_REQUIRE_LABELS.value,
        batch=BatchSettings(
            max_tokens=_BATCH_TOKENS.value,
            max_requests=_BATCH_REQUESTS.value,
            max_wait_s=_WAIT_MS.value / 1000,
        ),
        limits=Limits(
            max_body_bytes=_BODY_BYTES.value,
            max_items=_ITEMS.value,
            max_item_tokens=_ITEM_TOKENS.value,
            max_request_tokens=_REQUEST_TOKENS.value,
            max_labels=_MAX_LABELS.value,
            max_queue_requests=_QUEUE_REQUESTS.value,
            max_queue_tokens=_QUEUE_TOKENS.value,
            max_connections=_CONNECTIONS.value,
            request_timeout_s=_REQUEST_TIMEOUT.value,
            read_timeout_s=_READ_TIMEOUT.value,
            write_timeout_s=_WRITE_TIMEOUT.value,
            drain_timeout_s=_DRAIN_TIMEOUT.value,
            stall_timeout_s=_STALL_TIMEOUT.value,
            rate_limit=_RATE_LIMIT.value,
            rate_burst=_RATE_BURST.value,
        ),
        rerank=RerankSettings(template=_TEMPLATE.value, relevant=_YES.value, irrelevant=_NO.value),
        log_format=_choice(_LOG_FORMAT),
    )


def _api_key() -> str | None:
    if _API_KEY_FILE.value:
        return read_api_key(Path(_API_KEY_FILE.value))
    key = os.environ.get("ISOPREFILL_API_KEY")
    if key is None:
        return None
    if not key.strip():
        raise ValueError(
            "the API key is empty: ISOPREFILL_API_KEY is set but holds nothing; unset it to have no key"
        )
    return key.strip()


def _choice(flag: flags.FlagHolder[str]) -> Any:
    return flag.value  # absl has checked that it is one of the literals
