"""The multi-item requests of one forward pass: restarted positions, read-out rows, and the way back for results."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32

from isoprefill.attention.padding import next_power_of_two
from isoprefill_sglang_jax.items import RequestItems

# Read-out rows and labels are padded to one of few sizes, so that requests share compilations.
LEAST_READOUTS = 16


class Readouts:
    """Log-probabilities at the read-out rows of a pass: set by the forward pass, taken by its requests."""

    def __init__(self) -> None:
        self._on_device: jax.Array | None = None
        self._on_host: Float32[np.ndarray, "R L"] | None = None

    def set(self, logprobs: jax.Array) -> None:
        """Called by the thread that runs the model; starts the transfer to the host."""
        logprobs.copy_to_host_async()
        self._on_device = logprobs

    def take(self, rows: slice, num_labels: int) -> Float32[np.ndarray, "n L"]:
        """The log-probabilities of some read-out rows.

        Raises:
            RuntimeError: the pass returned no log-probabilities.
        """
        if self._on_host is None:
            if self._on_device is None:
                raise RuntimeError(
                    "the forward pass of a multi-item request returned no log-probabilities: the model does not "
                    "use sglang-jax's LogitsProcessor"
                )
            self._on_host, self._on_device = np.asarray(self._on_device), None
        return self._on_host[rows, :num_labels]


@dataclasses.dataclass(frozen=True, eq=False)
class Share:
    """The part of a pass's read-outs that belongs to one request."""

    readouts: Readouts
    first_row: int
    num_rows: int
    num_labels: int

    def take(self) -> Float32[np.ndarray, "n L"]:
        """The log-probabilities; waits for the device."""
        rows = slice(self.first_row, self.first_row + self.num_rows)
        return self.readouts.take(rows, self.num_labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Extent:
    """The tokens of one request that a pass computes.

    Attributes:
        request: sglang-jax's Req.
        items: None for an ordinary request.
        start, end: the tokens, counted from the request's first; those before are in the cache.
        rank: the data-parallel rank that computes them.
        row: the row of token `start` within the rank.
        slot: index of the request in the padded batch.
    """

    request: Any
    items: RequestItems | None
    start: int
    end: int
    rank: int
    row: int
    slot: int


@dataclasses.dataclass(frozen=True, eq=False)
class MultiItemBatch:
    """What sglang-jax's ModelWorkerBatch lacks for a pass with at least one multi-item request.

    Attributes:
        extents: all requests of the pass, ordinary ones included.
        readout_rows: rows within their rank whose logits score an item; one section a rank, padded with row 0.
        readout_labels: the label ids to take there, padded with 0.
        readouts: where the results go.
    """

    extents: tuple[Extent, ...]
    readout_rows: Int32[np.ndarray, "R"]
    readout_labels: Int32[np.ndarray, "R L"]
    readouts: Readouts


def make_multi_item(schedule_batch: Any, worker_batch: Any) -> MultiItemBatch | None:
    """Restarts the positions of a pass and gives its requests their share of the read-outs to come.

    Args:
        schedule_batch: sglang-jax's ScheduleBatch, whose requests went through `requests.accept`.
        worker_batch: the ModelWorkerBatch made from it; its `positions` are changed.

    Returns:
        None if the pass has no multi-item request.
    """
    if not worker_batch.forward_mode.is_extend():
        return None
    extents = _extents(schedule_batch, worker_batch)
    multi_item = [extent for extent in extents if extent.items is not None]
    if not multi_item:
        return None
    rows_per_rank = len(worker_batch.input_ids) // worker_batch.dp_size
    rows: list[list[int]] = [[] for _ in range(worker_batch.dp_size)]
    labels: list[list[tuple[int, ...]]] = [[] for _ in range(worker_batch.dp_size)]
    parts = []
    for extent in multi_item:
        items, start, end = extent.items, extent.start, extent.end
        assert items is not None
        first = extent.rank * rows_per_rank + extent.row
        worker_batch.positions[first : first + end - start] = items.positions(start, end)
        found = items.readouts(start, end) - start + extent.row
        parts.append((extent, len(rows[extent.rank]), len(found)))
        rows[extent.rank] += found.tolist()
        labels[extent.rank] += [items.labels] * len(found)

    room = bucket(max(map(len, rows)), LEAST_READOUTS)
    widest = bucket(max((len(ids) for of_rank in labels for ids in of_rank), default=1))
    readout_rows = np.zeros((len(rows), room), np.int32)
    readout_labels = np.zeros((len(rows), room, widest), np.int32)
    for rank, ids_of_rows in enumerate(labels):
        readout_rows[rank, : len(ids_of_rows)] = rows[rank]
        for row, ids in enumerate(ids_of_rows):
            readout_labels[rank, row, : len(ids)] = ids
    readouts = Readouts()
    for extent, first, count in parts:
        assert extent.items is not None
        if extent.start == 0:  # anew, if sglang-jax had retracted it
            extent.request.isoprefill_shares = []
        if count:
            first += extent.rank * room
            share = Share(readouts, first, count, len(extent.items.labels))
            extent.request.isoprefill_shares.append(share)
    return MultiItemBatch(
        tuple(extents), readout_rows.reshape(-1), readout_labels.reshape(-1, widest), readouts
    )


def bucket(count: int, least: int = 1) -> int:
    """The power of two, at least `least`, that holds `count`."""
    return max(least, next_power_of_two(count))


def _extents(schedule_batch: Any, worker_batch: Any) -> list[Extent]:
    extents = []
    for rank, info in enumerate(schedule_batch.reqs_info):
        row = 0
        for slot, request in enumerate(info.reqs or [], rank * worker_batch.per_dp_bs_size):
            start = int(worker_batch.extend_prefix_lens[slot])
            end = start + int(worker_batch.extend_seq_lens[slot])
            items = getattr(request, "isoprefill_items", None)
            extents.append(Extent(request, items, start, end, rank, row, slot))
            row += end - start
    return extents
