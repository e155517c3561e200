"""Serves /v1/score over PyTorch, with a choice of attention, to audit and to compare with.

    bazel run //tools:torch_reference_server -- --attention causal --port 30001
    bazel run //tools:audit -- --server-url http://127.0.0.1:30001

It is for experiments on your own machine: it takes one request at a time and has no authentication.
"""

import sys

import torch
import transformers
import uvicorn
from absl import app, flags

import callers_directory
from isoprefill.models.sources.pinned import FetchError
from isoprefill.models.sources.source import load_tokenizer
from isoprefill_torch import METHODS, TorchScorer, flashinfer_cuda, load_model
from isoprefill_torch.server import Backend, create_app

_ATTENTION = flags.DEFINE_enum(
    "attention",
    "isolated-dense",
    METHODS,
    "How items are scored. serial, batched and extend keep items apart by construction; isolated-dense, flex and "
    "flashinfer-rule pack them with an isolation mask; causal has no such mask; with leaky-first-item, a published "
    "bug, every item sees the first one; flashinfer is FlashInfer's own kernel (CUDA).",
)
_MODEL = flags.DEFINE_string(
    "model", "smollm2-135m", "A pinned model's name, a .gguf file, or a directory with safetensors."
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the weights.")
_DEVICE = flags.DEFINE_enum(
    "device",
    None,
    ["cpu", "cuda"],
    "Device of the model. Default: cuda for --attention flashinfer, else cpu.",
)
_DELIMITER = flags.DEFINE_enum(
    "delimiter", "none", ["none", "hidden", "prefix_first"], "Delimiter mode (docs/design.md)."
)
_DELIMITER_TOKEN_ID = flags.DEFINE_integer("delimiter-token-id", None, "The delimiter's token id.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
_PORT = flags.DEFINE_integer(
    "port", 30001, "Port to listen on; 0 picks a free one.", lower_bound=0, upper_bound=65535
)


def check_flags() -> None:
    """Raises ValueError if flags do not go together, or need what this machine does not have."""
    if _ATTENTION.value == "flashinfer" and (reason := flashinfer_cuda.unavailable()):
        raise ValueError(reason)
    if _DEVICE.value == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: CUDA is not available")
    if _DELIMITER.value != "none" and _DELIMITER_TOKEN_ID.value is None:
        raise ValueError(f"--delimiter {_DELIMITER.value} needs --delimiter-token-id")
    if _DELIMITER.value == "none" and _DELIMITER_TOKEN_ID.value is not None:
        raise ValueError("--delimiter-token-id needs --delimiter hidden or prefix_first")


def main(argv: list[str]) -> None:
    transformers.utils.logging.disable_progress_bar()
    try:
        callers_directory.enter(argv)
        check_flags()
        device = _DEVICE.value or ("cuda" if _ATTENTION.value == "flashinfer" else "cpu")
        backend = Backend(
            TorchScorer(load_model(_MODEL.value, _DTYPE.value, device)),
            load_tokenizer(_MODEL.value),
            _ATTENTION.value,
            _DELIMITER.value,
            _DELIMITER_TOKEN_ID.value,
        )
    except (ValueError, OSError, FetchError) as error:
        print(f"torch_reference_server: {error}", file=sys.stderr)
        sys.exit(2)
    config = uvicorn.Config(
        create_app(backend),
        host=_HOST.value,
        port=_PORT.value,
        log_level="warning",
        access_log=False,
    )
    socket = config.bind_socket()
    host, port = socket.getsockname()[:2]
    print(f"{_ATTENTION.value} at http://{host}:{port}", file=sys.stderr, flush=True)
    uvicorn.Server(config).run(sockets=[socket])


if __name__ == "__main__":
    app.run(main)
