"""Checkpoints of quantised weights, by config.json's `quantization_config`, made checkpoints of plain weights.

What is computed is the model of these weights in float32 or bfloat16. That activations were quantised too, in a server
that runs such a checkpoint as it is, changes nothing here: the weights are what was trained.
"""

from collections.abc import Callable, Mapping
from typing import Any

from isoprefill.models.files import awq, fp8, gptq, mxfp4
from isoprefill.models.files.checkpoint import Checkpoint

Settings = Mapping[str, Any]


def _compressed_tensors(checkpoint: Checkpoint, settings: Settings) -> Checkpoint:
    layout = settings.get("format")
    if layout != "float-quantized":
        raise ValueError(
            f"quantization_config: format {layout!r} of compressed-tensors is not supported; supported: float-quantized"
        )
    return fp8.widened(checkpoint, settings)


_METHODS: dict[str, Callable[[Checkpoint, Settings], Checkpoint]] = {
    "awq": awq.widened,
    "compressed-tensors": _compressed_tensors,
    "fp8": fp8.widened,
    "fbgemm_fp8": fp8.widened,
    "gptq": gptq.widened,
    "mxfp4": mxfp4.widened,
}


def widened(checkpoint: Checkpoint, settings: Any) -> Checkpoint:
    """Returns the checkpoint with the weights that the quantised ones stand for.

    Args:
        checkpoint: what the files hold.
        settings: `quantization_config` of config.json; None: nothing is quantised.

    Raises:
        ValueError: the method is not supported, or what it needs is missing or of the wrong shape; names it.
    """
    if not settings:
        return checkpoint
    if not isinstance(settings, dict):
        raise ValueError(f"quantization_config must be an object, got {type(settings).__name__}")
    method = settings.get("quant_method")
    if not isinstance(method, str) or method not in _METHODS:
        raise ValueError(
            f"quantization_config: quant_method {method!r} is not supported; supported: {', '.join(_METHODS)}"
        )
    return _METHODS[method](checkpoint, settings)
