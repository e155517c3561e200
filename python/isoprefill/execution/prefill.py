"""Algorithms "serial" and "packed": prefixes and items in one prefill, with nothing kept."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Array, Float

from isoprefill.attention.layout import PackedLayout, RequestShape
from isoprefill.attention.padding import bucket_size
from isoprefill.execution.device import Device
from isoprefill.execution.lanes import side_by_side, stack_packs, stack_readouts
from isoprefill.execution.packing import Piece
from isoprefill.execution.readout import Readout


def prefill_packs(
    device: Device, packs: Iterable[Sequence[Piece]]
) -> Iterator[tuple[Readout, Float[np.ndarray, "M K"]]]:
    """What is asked of each pack, and the answers. With packs of one item this is scoring item by item."""
    for group in side_by_side(packs, device.lanes):
        rows = bucket_size(max(sum(piece.num_rows for piece in pack) for pack in group))
        layouts = [_layout(pack, rows) for pack in group]
        tokens = [np.concatenate([piece.tokens() for piece in pack]) for pack in group]
        readouts = [
            Readout.of(pack, layout.item_first_rows, layout.item_context_rows)
            for pack, layout in zip(group, layouts, strict=True)
        ]
        inputs = stack_packs(device, tokens, layouts)
        hidden = device.steps.prefill(device.params, inputs)
        yield from read(device, hidden, readouts)


def read(
    device: Device, hidden: Float[Array, "D T E"], readouts: Sequence[Readout]
) -> Iterator[tuple[Readout, Float[np.ndarray, "M K"]]]:
    """The log-probabilities that are asked of each lane."""
    asked = stack_readouts(readouts, hidden.shape[1], device.lanes)
    logprobs = np.asarray(device.steps.read(device.params, hidden, asked))
    for readout, of_lane in zip(readouts, logprobs, strict=False):
        count, width = readout.token_ids.shape
        yield readout, of_lane[:count, :width]


def _layout(pack: Sequence[Piece], rows: int) -> PackedLayout:
    return PackedLayout.of_requests(
        [
            RequestShape(
                piece.prefix.size,
                np.array([item.size for item in piece.items], np.int64),
                delimiter=piece.request.delimiter,
                isolation=piece.request.isolation,
            )
            for piece in pack
        ],
        pad_to=rows,
    )
