"""Weights that AWQ quantised to four bits, in its layout "gemm".

Letters: K inputs of a module, N outputs, G groups. An int32 holds eight neighbouring outputs of one input, in an order
of its own. weight[n, k] = (q[k, n] - zero[g, n]) * scale[g, n] with input k's group g.
"""

from collections.abc import Mapping
from typing import Any

from isoprefill.models.files.checkpoint import Checkpoint
from isoprefill.models.files.packed_nibbles import (
    PER_INTEGER,
    Numbers,
    QuantisedModule,
    unpacked,
    widened_modules,
)

# Which of the eight nibbles of an integer, from the lowest, has each output.
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def widened(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """Returns the checkpoint with float32 weights.

    Raises:
        ValueError: another layout or other bits, or a tensor is missing or of the wrong shape; names it.
    """
    version = settings.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise ValueError(
            f"quantization_config: version {version!r} of AWQ is not supported; supported: gemm"
        )
    if settings.get("zero_point", True) is not True:
        raise ValueError("quantization_config: zero_point must be true with AWQ")
    return widened_modules(checkpoint, settings, packed_axis=1, read=_numbers)


def _numbers(module: QuantisedModule) -> Numbers:
    weights, zeros = (
        unpacked(tensor.read()).reshape(-1, PER_INTEGER)[:, _PLACES].reshape(-1, module.num_outputs)
        for tensor in (module.qweight, module.qzeros)
    )
    return weights.T, zeros
