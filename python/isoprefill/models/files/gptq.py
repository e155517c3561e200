"""Weights that GPTQ quantised to four bits.

Letters: K inputs of a module, N outputs, G groups. An int32 of the weights holds eight neighbouring inputs of one
output, one of the zero points eight neighbouring outputs. weight[n, k] = (q[k, n] - zero[g, n]) * scale[g, n] with
input k's group g, which g_idx names: with act-order, groups are of inputs that are no neighbours.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from isoprefill.models.files.checkpoint import Checkpoint
from isoprefill.models.files.packed_nibbles import (
    Numbers,
    QuantisedModule,
    unpacked,
    widened_modules,
)

# By checkpoint_format: how much less than the zero point is stored.
_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}
_LARGEST = 15


def widened(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """Returns the checkpoint with float32 weights.

    Raises:
        ValueError: another layout or other bits, or a tensor is missing or of the wrong shape; names it.
    """
    layout = settings.get("checkpoint_format", "gptq")
    if not isinstance(layout, str) or layout not in _ZERO_OFFSETS:
        raise ValueError(
            f"quantization_config: checkpoint_format {layout!r} of GPTQ is not supported; supported: "
            f"{', '.join(_ZERO_OFFSETS)}"
        )
    read = functools.partial(_numbers, zero_offset=_ZERO_OFFSETS[layout])
    return widened_modules(checkpoint, settings, packed_axis=0, read=read)


def _numbers(module: QuantisedModule, zero_offset: int) -> Numbers:
    zeros = unpacked(module.qzeros.read())[:, : module.num_outputs]
    if zero_offset and (zeros == _LARGEST).any():
        raise ValueError(
            f"tensor {module.name}.qzeros holds {_LARGEST}, which some programs read as the zero point 0 and others as "
            f"{_LARGEST + 1}: give a checkpoint of checkpoint_format gptq_v2"
        )
    return unpacked(module.qweight.read().T), zeros + np.uint8(zero_offset)
