"""The multi-item requests of one forward pass: restarted positions, read-out rows, and where the results go."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32

from isoprefill_pallas.padding import next_power_of_two
from isoprefill_sglang_jax.items import RequestItems

# Read-out rows and labels are padded to a few sizes, so that requests share compilations.
LEAST_READOUTS = 16  # a power of two


class Readouts:
    """Log-probabilities at the read-out rows of a pass. The forward pass sets them, and its requests take them."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._logprobs: jax.Array | None = None

    def set(self, logprobs: jax.Array) -> None:
        """Keeps `[ranks * R, L]` and starts the transfer to the host; the thread that runs the model calls it."""
        logprobs.copy_to_host_async()
        self._logprobs = logprobs

    def on_host(self) -> Float32[np.ndarray, "ranks R L"]:
        """Returns the log-probabilities; waits for the device.

        Raises:
            RuntimeError: the pass returned no log-probabilities.
        """
        if self._logprobs is None:
            raise RuntimeError(
                "the forward pass of a multi-item request returned no log-probabilities: the model does not use "
                "sglang-jax's LogitsProcessor"
            )
        logprobs = np.asarray(self._logprobs)  # jax keeps the copy
        return logprobs.reshape(self._ranks, -1, logprobs.shape[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Share:
    """The read-outs of a pass that belong to one request: some rows of its rank."""

    readouts: Readouts
    rank: int
    first_row: int
    num_rows: int
    num_labels: int

    def take(self) -> Float32[np.ndarray, "n L"]:
        """Returns the log-probabilities; waits for the device."""
        rows = slice(self.first_row, self.first_row + self.num_rows)
        return self.readouts.on_host()[self.rank, rows, : self.num_labels]


@dataclasses.dataclass(frozen=True, eq=False)
class Extent:
    """The tokens `start` to `end` of one request, which a pass computes; those before `start` are in the cache."""

    request: Any  # sglang-jax's Req
    items: RequestItems | None  # None for an ordinary request
    start: int
    end: int
    rank: int  # the data-parallel rank that computes them
    row: int  # of token `start`, within the rank


@dataclasses.dataclass(frozen=True, eq=False)
class MultiItemBatch:
    """What sglang-jax's ModelWorkerBatch lacks for a pass with at least one multi-item request."""

    extents: tuple[Extent, ...]  # all requests of the pass, ordinary ones included
    # Rows within their rank whose logits score an item; one section a rank, padded with row 0.
    readout_rows: Int32[np.ndarray, "ranks*R"]
    readout_labels: Int32[np.ndarray, "ranks*R L"]  # the label ids to take there, padded with 0
    readouts: Readouts  # receives the results


def make_multi_item(schedule_batch: Any, worker_batch: Any) -> MultiItemBatch | None:
    """Restarts the positions of a pass at each item, and gives requests their shares of the read-outs to come.

    Args:
        schedule_batch: sglang-jax's ScheduleBatch, whose requests went through `requests.accept`.
        worker_batch: the ModelWorkerBatch made from it; its `positions` are changed.

    Returns:
        None if the pass has no multi-item request.
    """
    if not worker_batch.forward_mode.is_extend():
        return None
    extents = _extents(schedule_batch, worker_batch)
    if all(extent.items is None for extent in extents):
        return None
    ranks = worker_batch.dp_size
    readouts = Readouts(ranks)
    # The read-out rows of each rank, and the labels of each row.
    sections: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in range(ranks)]
    for extent in extents:
        if extent.items is None:
            continue
        rank, start, end = extent.rank, extent.start, extent.end
        first = rank * (len(worker_batch.input_ids) // ranks) + extent.row
        worker_batch.positions[first : first + end - start] = extent.items.positions(start, end)
        found = extent.items.readouts(start, end) - start + extent.row
        if start == 0:  # anew, if sglang-jax had retracted the request
            extent.request.isoprefill_shares = []
        if found.size:
            num_labels = len(extent.items.labels)
            share = Share(readouts, rank, len(sections[rank]), found.size, num_labels)
            extent.request.isoprefill_shares.append(share)
        sections[rank] += [(row, extent.items.labels) for row in found.tolist()]

    room = next_power_of_two(max(LEAST_READOUTS, *map(len, sections)))
    widest = max((len(labels) for section in sections for _, labels in section), default=1)
    readout_rows = np.zeros((ranks, room), np.int32)
    readout_labels = np.zeros((ranks, room, next_power_of_two(widest)), np.int32)
    for rank, section in enumerate(sections):
        for place, (row, labels) in enumerate(section):
            readout_rows[rank, place] = row
            readout_labels[rank, place, : len(labels)] = labels
    flat = (readout_rows.reshape(-1), readout_labels.reshape(-1, readout_labels.shape[-1]))
    return MultiItemBatch(extents, *flat, readouts)


def _extents(schedule_batch: Any, worker_batch: Any) -> tuple[Extent, ...]:
    extents = []
    for rank, info in enumerate(schedule_batch.reqs_info):
        row = 0
        for slot, request in enumerate(info.reqs or [], rank * worker_batch.per_dp_bs_size):
            start = int(worker_batch.extend_prefix_lens[slot])
            end = start + int(worker_batch.extend_seq_lens[slot])
            items = getattr(request, "isoprefill_items", None)
            extents.append(Extent(request, items, start, end, rank, row))
            row += end - start
    return tuple(extents)
