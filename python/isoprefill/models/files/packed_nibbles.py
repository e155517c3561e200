"""Matrices of four-bit numbers, eight in an int32, and the modules that hold them: what AWQ and GPTQ have in common.

Letters: K inputs of a module, N outputs, G groups of inputs with a scale and a zero point each.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from isoprefill.models.files.checkpoint import Checkpoint, LazyTensor
from isoprefill.models.weights.scaled_integers import RUN, ScaledIntegers

PER_INTEGER = 8
_BITS = 4
_QWEIGHT = ".qweight"  # the end of the name of such integers


@dataclasses.dataclass(frozen=True, slots=True)
class QuantisedModule:
    """The tensors of one linear module.

    Attributes:
        name: of the module.
        num_inputs, num_outputs, num_groups: K, N and G.
        qweight: int32, eight weights each.
        qzeros: int32 [G, N / 8].
        scales: [G, N].
        g_idx: int32 [K], the group of each input; None: `group_size` inputs after another.
        group_size: inputs of a group.
    """

    name: str
    num_inputs: int
    num_outputs: int
    num_groups: int
    qweight: LazyTensor
    qzeros: LazyTensor
    scales: LazyTensor
    g_idx: LazyTensor | None
    group_size: int

    def groups(self) -> Int32[np.ndarray, "K"]:
        """Returns the group of each input.

        Raises:
            ValueError: a group does not exist.
        """
        if self.g_idx is None:
            return self._groups_in_order()
        groups = self.g_idx.read()
        if groups.min() < 0 or groups.max() >= self.num_groups:
            raise ValueError(
                f"tensor {self.name}.g_idx must be in [0, {self.num_groups}), got "
                f"{groups.min()} to {groups.max()}"
            )
        return groups

    def has_runs(self) -> bool:
        """Returns whether groups are of neighbouring inputs, as many as `ScaledIntegers` has to a scale."""
        if self.num_inputs % self.group_size or self.group_size % RUN:
            return False
        return self.g_idx is None or np.array_equal(self.g_idx.read(), self._groups_in_order())

    def _groups_in_order(self) -> Int32[np.ndarray, "K"]:
        return np.arange(self.num_inputs, dtype=np.int32) // self.group_size


# The numbers of a module's weights, and of its zero points.
Numbers = tuple[UInt8[np.ndarray, "N K"], UInt8[np.ndarray, "G N"]]


def widened_modules(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    *,
    packed_axis: int,
    read: Callable[[QuantisedModule], Numbers],
) -> Checkpoint:
    """Returns the checkpoint with a weight of float32 in the place of each quantised module's tensors.

    With input k's group g, weight[n, k] = (number[n, k] - zero[g, n]) * scale[g, n].

    Args:
        checkpoint: what the files hold.
        settings: `quantization_config`.
        packed_axis: of a qweight [K, N] the axis along which eight numbers are one integer.
        read: reads a module's numbers.

    Raises:
        ValueError: not four bits, or a tensor is missing or of the wrong shape; names it.
    """
    bits, group_size = settings.get("bits"), settings.get("group_size")
    if bits != _BITS:
        raise ValueError(f"quantization_config: bits must be {_BITS}, got {bits!r}")
    if type(group_size) is not int or not (group_size >= 1 or group_size == -1):
        raise ValueError(
            f"quantization_config: group_size must be positive or -1, got {group_size!r}"
        )
    tensors = dict(checkpoint)
    for name in checkpoint:
        if not name.endswith(_QWEIGHT):
            continue
        module = _module(checkpoint, name.removesuffix(_QWEIGHT), group_size, packed_axis)
        for suffix in (_QWEIGHT, ".qzeros", ".scales", ".g_idx"):
            tensors.pop(module.name + suffix, None)
        shape = (module.num_outputs, module.num_inputs)
        tensors[module.name + ".weight"] = LazyTensor(
            shape,
            functools.partial(_weights, read, module),
            read_scaled=functools.partial(_scaled, read, module) if module.has_runs() else None,
        )
    return tensors


def _weights(
    read: Callable[[QuantisedModule], Numbers], module: QuantisedModule
) -> Float32[np.ndarray, "N K"]:
    numbers, zeros = read(module)
    groups = module.groups()
    values = numbers.astype(np.float32, order="C")
    values -= zeros.T[:, groups]
    with np.errstate(over="ignore", invalid="ignore"):  # whoever reads checks
        values *= np.asarray(module.scales.read(), np.float32).T[:, groups]
    return values


def _scaled(read: Callable[[QuantisedModule], Numbers], module: QuantisedModule) -> ScaledIntegers:
    numbers, zeros = read(module)
    integers = numbers.astype(np.int8, order="C")  # 0 to 15; zero points are 0 to 16
    integers -= np.repeat(zeros.T.astype(np.int8), module.group_size, axis=1)
    return ScaledIntegers(integers, np.asarray(module.scales.read(), np.float32).T)


def _module(
    checkpoint: Checkpoint, name: str, group_size: int, packed_axis: int
) -> QuantisedModule:
    def tensor(suffix: str, shape: tuple[int, ...] | None, *dtypes: str) -> LazyTensor:
        full = name + suffix
        if full not in checkpoint:
            raise ValueError(f"tensor {full} is missing")
        found = checkpoint[full]
        if found.dtype not in dtypes or (shape is not None and found.shape != shape):
            wanted = "a matrix" if shape is None else list(shape)
            raise ValueError(
                f"tensor {full} must be {' or '.join(dtypes)} {wanted}, got {found.dtype} {list(found.shape)}"
            )
        return found

    qweight = tensor(_QWEIGHT, None, "I32")
    if len(qweight.shape) != 2 or not all(qweight.shape):
        raise ValueError(f"tensor {name}{_QWEIGHT} must be a matrix, got {list(qweight.shape)}")
    sizes = list(qweight.shape)
    sizes[packed_axis] *= PER_INTEGER
    num_inputs, num_outputs = sizes
    if group_size == -1:
        group_size = num_inputs
    num_groups = -(-num_inputs // group_size)
    g_idx = tensor(".g_idx", (num_inputs,), "I32") if name + ".g_idx" in checkpoint else None
    return QuantisedModule(
        name,
        num_inputs,
        num_outputs,
        num_groups,
        qweight,
        tensor(".qzeros", (num_groups, -(-num_outputs // PER_INTEGER)), "I32"),
        tensor(".scales", (num_groups, num_outputs), "F16", "BF16", "F32"),
        g_idx,
        group_size,
    )


def unpacked(packed: Int32[np.ndarray, "M N/8"]) -> UInt8[np.ndarray, "M N"]:
    """Returns the numbers of each integer, that of its lowest bits first."""
    pairs = np.ascontiguousarray(packed, "<i4").view(np.uint8)
    numbers = np.empty((*pairs.shape, 2), np.uint8)
    np.bitwise_and(pairs, 0xF, out=numbers[..., 0])
    np.right_shift(pairs, _BITS, out=numbers[..., 1])
    return numbers.reshape(packed.shape[0], -1)
