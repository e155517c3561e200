"""Packs side by side: arrays of one shape with a leading axis, one pack for each device of the mesh's data axis."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Int32, Shaped

from isoprefill.attention.layout import PackedLayout
from isoprefill.attention.padding import bucket_size, next_power_of_two
from isoprefill.execution.device import Device
from isoprefill.execution.readout import Readout
from isoprefill.execution.step_inputs import PackInputs, ReadoutInputs

_T = TypeVar("_T")


def side_by_side(things: Iterable[_T], lanes: int) -> Iterator[list[_T]]:
    """The things in lists of `lanes`; the last may be shorter."""
    group: list[_T] = []
    for thing in things:
        group.append(thing)
        if len(group) == lanes:
            yield group
            group = []
    if group:
        yield group


def stack_packs(
    device: Device,
    tokens: Sequence[Int32[np.ndarray, "tokens"]],
    layouts: Sequence[PackedLayout],
) -> PackInputs:
    """The packs with the schedules that the attention needs. Lanes without a pack repeat the first.

    Args:
        device: how many lanes there are, and what computes them.
        tokens: of each pack's rows, without padding.
        layouts: of the packs, padded alike.
    """
    packs = [
        PackInputs(pad(of_pack, layout.num_rows), layout)
        for of_pack, layout in zip(tokens, device.with_schedules(layouts), strict=True)
    ]
    return _stack(packs, device.lanes)


def stack_readouts(readouts: Sequence[Readout], hidden_rows: int, lanes: int) -> ReadoutInputs:
    """What is asked of each lane.

    Args:
        readouts: what is asked of each pack; a row of -1 is the last hidden row.
        hidden_rows: rows of the hidden states.
        lanes: how many there must be.
    """
    count = bucket_size(max(readout.rows.size for readout in readouts))
    width = next_power_of_two(max(readout.token_ids.shape[1] for readout in readouts))
    asked = []
    for readout in readouts:
        token_ids = np.zeros((count, width), np.int32)
        token_ids[: readout.rows.size, : readout.token_ids.shape[1]] = readout.token_ids
        rows = np.where(readout.rows < 0, hidden_rows - 1, readout.rows).astype(np.int32)
        asked.append(ReadoutInputs(pad(rows, count), np.asarray(rows.size, np.int32), token_ids))
    return _stack(asked, lanes)


def pad(array: Int32[np.ndarray, "n"], length: int) -> Int32[np.ndarray, "length"]:
    """The array with zeros at its end."""
    return np.pad(array, (0, length - array.size))


def _stack(trees: Sequence[_T], lanes: int) -> _T:
    trees = [*trees, *[trees[0]] * (lanes - len(trees))]

    def of_leaves(*leaves: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "lanes ..."]:
        # A schedule that needs more steps than its capacity is longer than the others.
        most = [max(lengths) for lengths in zip(*(leaf.shape for leaf in leaves), strict=True)]
        out = np.zeros((lanes, *most), leaves[0].dtype)
        for lane, leaf in enumerate(leaves):
            index: Any = (lane, *(slice(length) for length in leaf.shape))
            out[index] = leaf
        return out

    return jax.tree.map(of_leaves, *trees)
