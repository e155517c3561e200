"""Weights of eight bits, each with the scale of its block, its row or its whole matrix."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from isoprefill.models.files.checkpoint import Checkpoint, LazyTensor

_EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
# Factors of the weights in spite of the first one's name.
_SCALES = (".weight_scale_inv", ".weight_scale")
_OF_ACTIVATIONS = (".input_scale", ".input_scale_ub", ".activation_scale")
_WEIGHT = ".weight"


def widened(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """Returns the checkpoint with float32 weights.

    A weight is the number in eight bits times its scale. Scales of shape [] or [1] are the matrix's, [M] and [M, 1] a
    row's; any other scales [I, J] are those of blocks of `weight_block_size` values.

    Raises:
        ValueError: weights have no scales, or scales do not fit their weights; names the tensor.
    """
    block = settings.get("weight_block_size")
    if block is not None and not (
        isinstance(block, list)
        and len(block) == 2
        and all(type(one) is int and one >= 1 for one in block)
    ):
        raise ValueError(
            f"quantization_config: weight_block_size must be two positive integers, got {block!r}"
        )
    tensors = dict(checkpoint)
    for name, tensor in checkpoint.items():
        if tensor.dtype not in _EIGHT_BITS:
            continue
        module = name.removesuffix(_WEIGHT)
        scales = [module + suffix for suffix in _SCALES if module + suffix in checkpoint]
        if module == name or len(tensor.shape) != 2 or len(scales) != 1:
            raise ValueError(
                f"tensor {name} of {tensor.dtype} must be a matrix with one of {', '.join(_SCALES)}, "
                f"got the shape {list(tensor.shape)} and {scales or 'none of them'}"
            )
        scale = checkpoint[scales[0]]
        sizes = _block_sizes(name, tensor.shape, scale.shape, block)
        tensors[name] = dataclasses.replace(
            tensor, read=_Scaled(name, tensor, scale, sizes), dtype="F32"
        )
        for suffix in (*_SCALES, *_OF_ACTIVATIONS):
            tensors.pop(module + suffix, None)
    return tensors


def _block_sizes(
    name: str, shape: tuple[int, ...], scales: tuple[int, ...], block: list[int] | None
) -> tuple[int, int]:
    """Returns how many rows and columns share a scale."""
    rows, columns = shape
    if scales in ((), (1,), (1, 1)):
        return rows, columns
    if scales in ((rows,), (rows, 1)):
        return 1, columns
    if block is not None and scales == (-(-rows // block[0]), -(-columns // block[1])):
        return block[0], block[1]
    raise ValueError(
        f"the scales of tensor {name} {list(shape)} must be one, one for each row, or one for each block of "
        f"{block or 'weight_block_size, which config.json lacks'}, got the shape {list(scales)}"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Scaled:
    """Reads weights times their scales."""

    name: str
    weights: LazyTensor
    scales: LazyTensor
    sizes: tuple[int, int]

    def __call__(self) -> np.ndarray:
        values = self.weights.read().astype(np.float32)
        scales = np.asarray(self.scales.read(), np.float32)
        if not np.isfinite(scales).all():
            raise ValueError(f"the scales of tensor {self.name} must be finite")
        rows, columns = values.shape
        row_blocks, column_blocks = (
            np.arange(size) // block for size, block in zip(values.shape, self.sizes, strict=True)
        )
        scales = scales.reshape(-(-rows // self.sizes[0]), -(-columns // self.sizes[1]))
        # Block row by block row: a scale for each weight would take as much memory as they do.
        for row in range(scales.shape[0]):
            begin, end = np.searchsorted(row_blocks, [row, row + 1])
            values[begin:end] *= scales[row][column_blocks]
        return values
