"""Weights of four bits in blocks of 32 with a scale of eight bits: MXFP4 of the OCP Microscaling Formats, version 1.0.

Letters: X experts, N outputs, K inputs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from isoprefill.models.files.checkpoint import Checkpoint, LazyTensor

_BLOCKS, _SCALES = "_blocks", "_scales"
_BYTES = 16  # of a block: two numbers each, that of the lower bits first
_MAGNITUDES = np.asarray([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def widened(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """Returns the checkpoint with a bfloat16 tensor [X, K, N] for each pair [X, N, K / 32, 16] and [X, N, K / 32].

    A number in four bits, times a power of two, is a bfloat16, exactly.

    Raises:
        ValueError: a tensor is missing or of the wrong shape; names it.
    """
    tensors = dict(checkpoint)
    for name, blocks in checkpoint.items():
        if not name.endswith(_BLOCKS):
            continue
        whole = name.removesuffix(_BLOCKS)
        if whole + _SCALES not in checkpoint:
            raise ValueError(f"tensor {whole}{_SCALES} is missing")
        scales = checkpoint[whole + _SCALES]
        shape = blocks.shape
        if len(shape) != 4 or shape[-1] != _BYTES or scales.shape != shape[:-1]:
            raise ValueError(
                f"tensor {name} must be [X, N, K / 32, 16] and its scales [X, N, K / 32], got {list(shape)} and "
                f"{list(scales.shape)}"
            )
        if (blocks.dtype, scales.dtype) != ("U8", "U8"):
            raise ValueError(
                f"tensor {name} and its scales must be U8, got {blocks.dtype} and {scales.dtype}"
            )
        del tensors[name], tensors[whole + _SCALES]
        experts, outputs, groups, _ = shape
        tensors[whole] = LazyTensor(
            (experts, 2 * _BYTES * groups, outputs), _Reader(blocks, scales), "BF16"
        )
    return tensors


@dataclasses.dataclass(frozen=True, slots=True)
class _Reader:
    blocks: LazyTensor
    scales: LazyTensor

    def __call__(self) -> Shaped[np.ndarray, "X K N"]:
        blocks, scales = self.blocks.read(), self.scales.read()
        experts, outputs, groups, _ = blocks.shape
        values = np.empty((experts, outputs, groups, 2 * _BYTES), ml_dtypes.bfloat16)
        table = _table()
        for expert in range(experts):  # one by one: indices take more memory than the values
            places = scales[expert].astype(np.int16)[..., None] * 16
            values[expert, ..., 0::2] = table[places + (blocks[expert] & 15)]
            values[expert, ..., 1::2] = table[places + (blocks[expert] >> 4)]
        return values.reshape(experts, outputs, -1).swapaxes(1, 2)


def _table() -> Shaped[np.ndarray, "4096"]:
    """Returns what four bits stand for under each scale: infinity where bfloat16 has no such number."""
    numbers = np.concatenate([_MAGNITUDES, -_MAGNITUDES])
    wide = np.ldexp(numbers, np.arange(256)[:, None] - 127).astype(np.float64)
    wide[255] = np.inf  # the scale that is no number
    with np.errstate(over="ignore"):
        return wide.astype(ml_dtypes.bfloat16).reshape(-1)
