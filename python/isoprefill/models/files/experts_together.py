"""gpt-oss's tensors of all experts of a layer, made tensors of the usual layout.

A file has [X, K, N], as rows are multiplied with it, and of gate and up one tensor, column by column in turn. The
decoder wants [X, N, K], and two tensors.

Letters: X experts, N outputs, K inputs.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped

from isoprefill.models.files.checkpoint import Checkpoint, LazyTensor

_BOTH, _DOWN = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"
_BIAS = "_bias"
_HALVES = {"gate": slice(0, None, 2), "up": slice(1, None, 2)}


def separated(checkpoint: Checkpoint) -> Checkpoint:
    """Returns the checkpoint with `gate_proj`, `up_proj` and their biases, and `down_proj` turned.

    Raises:
        ValueError: a tensor has another number of axes, or an odd number of columns; names it.
    """
    tensors = dict(checkpoint)
    for name, tensor in checkpoint.items():
        biases = name.endswith(_BIAS)
        of = name.removesuffix(_BIAS)
        if not of.endswith((_BOTH, _DOWN)):
            continue
        axes, columns = len(tensor.shape), tensor.shape[-1] if tensor.shape else 0
        if axes != (2 if biases else 3) or (of.endswith(_BOTH) and columns % 2):
            raise ValueError(
                f"tensor {name} must be {'[X, N]' if biases else '[X, K, N]'}, got {list(tensor.shape)}"
            )
        if of.endswith(_BOTH):
            del tensors[name]
            for half, some in _HALVES.items():
                own_name = name.replace("gate_up_proj", f"{half}_proj")
                tensors[own_name] = _changed(tensor, _Part(tensor.read, some, turned=not biases))
        elif not biases:
            tensors[name] = _changed(tensor, _Part(tensor.read, slice(None), turned=True))
    return tensors


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """Reads some columns of a tensor."""

    read: Callable[[], Shaped[np.ndarray, "..."]]
    columns: slice
    turned: bool

    def __call__(self) -> Shaped[np.ndarray, "..."]:
        return self.of(self.read())

    def of(self, values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        some = values[..., self.columns]
        return some.swapaxes(1, 2) if self.turned else some


def _changed(tensor: LazyTensor, part: _Part) -> LazyTensor:
    shape = part.of(np.broadcast_to(np.int8(0), tensor.shape)).shape  # takes no memory
    return LazyTensor(shape, part, tensor.dtype)
