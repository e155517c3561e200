"""What the attention of a multi-item pass needs beside q, k, v and the cache: made on the host, once a pass."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int32
from sgl_jax.srt.layers.attention.base_attn_backend import AttentionBackendMetadata
from sgl_jax.srt.utils.jax_utils import device_array

from isoprefill_pallas.heads import Heads
from isoprefill_pallas.schedule import KernelSchedule
from isoprefill_sglang_jax.batch import MultiItemBatch, bucket

LEAST_PAGES = 16


@dataclasses.dataclass(frozen=True, eq=False)
class PagedColumns:
    """Where the columns of a pass lie in the cache, and which of them each row sees, for one rank.

    Requests follow one another; each starts on a page of its own. Column c is slot `c % page_size` of page
    `page_indices[c // page_size]`.

    Attributes:
        page_indices: padded with page 0.
        page_lens: how many tokens of each page count; behind them, and in padding, pages hold anything.
        row_intervals: prefix_begin, prefix_end, own_begin, own_end of each row, in columns, half open; padding rows
            see nothing.
    """

    page_indices: Int32[np.ndarray, "n"]
    page_lens: Int32[np.ndarray, "n"]
    row_intervals: Int32[np.ndarray, "4 T"]


def paged_columns(
    worker_batch: Any, items: MultiItemBatch, page_size: int
) -> tuple[PagedColumns, ...]:
    """The columns of each data-parallel rank, from sglang-jax's ModelWorkerBatch."""
    ranks = worker_batch.dp_size
    rows = len(worker_batch.input_ids) // ranks
    # Requests of a rank lie one after another in cache_loc, each from a multiple of page_size on.
    pages_of_ranks = worker_batch.cache_loc.reshape(ranks, -1)[:, ::page_size] // page_size
    num_pages = np.zeros(ranks, np.int64)
    for extent in items.extents:
        num_pages[extent.rank] += -(-extent.end // page_size)
    room = bucket(int(num_pages.max()), LEAST_PAGES)
    made = []
    for rank in range(ranks):
        page_indices = np.zeros(room, np.int32)
        page_indices[: num_pages[rank]] = pages_of_ranks[rank, : num_pages[rank]]
        page_lens = np.zeros(room, np.int32)
        intervals = np.zeros((4, rows), np.int32)
        page = 0
        for extent in items.extents:
            if extent.rank != rank:
                continue
            start, end = extent.start, extent.end
            pages = -(-end // page_size)
            page_lens[page : page + pages] = page_size
            page_lens[page + pages - 1] = end - page_size * (pages - 1)
            seen_up_to = np.arange(start, end) + 1
            here = intervals[:, extent.row : extent.row + end - start]
            here[1] = seen_up_to
            if extent.items is not None:
                in_item = seen_up_to > extent.items.prefix_len
                here[1] = np.minimum(seen_up_to, extent.items.prefix_len)
                here[2] = np.where(in_item, extent.items.own_begins(start, end), 0)
                here[3] = np.where(in_item, seen_up_to, 0)
            here += page * page_size
            page += pages
        made.append(PagedColumns(page_indices, page_lens, intervals))
    return tuple(made)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(eq=False)
class MultiItemMetadata(AttentionBackendMetadata):
    """Metadata of a pass: of sglang-jax's own back end, and of ours if there are multi-item requests.

    Attributes:
        own: what sglang-jax's back end made for the pass; it may be None.
        page_indices, page_lens, row_intervals: as in PagedColumns, one section a data-parallel rank; None in an
            ordinary pass.
        schedule: of the TPU kernel; None if XLA computes the attention.
    """

    own: Any = None
    page_indices: Int32[Array, "n"] | None = None
    page_lens: Int32[Array, "n"] | None = None
    row_intervals: Int32[Array, "4 T"] | None = None
    schedule: KernelSchedule | None = None

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        """For jax."""
        return (
            self.own,
            self.page_indices,
            self.page_lens,
            self.row_intervals,
            self.schedule,
        ), None

    @classmethod
    def tree_unflatten(cls, aux_data: None, children: tuple[Any, ...]) -> "MultiItemMetadata":
        """For jax."""
        return cls(*children)

    @classmethod
    def make(
        cls,
        own: Any,
        worker_batch: Any,
        page_size: int,
        mesh: jax.sharding.Mesh,
        kernel_heads: Heads | None,
    ) -> "MultiItemMetadata":
        """Puts the metadata of a pass on the devices.

        Args:
            own: of sglang-jax's back end.
            worker_batch: its ModelWorkerBatch.
            kernel_heads: heads of a device if the TPU kernel computes the attention.
        """
        items: MultiItemBatch | None = getattr(worker_batch, "isoprefill_items", None)
        if items is None:
            return cls(own)
        ranks = paged_columns(worker_batch, items, page_size)
        page_indices, page_lens = device_array(
            (
                np.concatenate([rank.page_indices for rank in ranks]),
                np.concatenate([rank.page_lens for rank in ranks]),
            ),
            sharding=NamedSharding(mesh, P("data")),
        )
        row_intervals = device_array(
            np.concatenate([rank.row_intervals for rank in ranks], axis=1),
            sharding=NamedSharding(mesh, P(None, "data")),
        )
        schedule = None
        if kernel_heads is not None:
            (rank,) = ranks
            schedule = device_array(
                kernel_schedule(rank, page_size, kernel_heads), sharding=NamedSharding(mesh, P())
            )
        return cls(own, page_indices, page_lens, row_intervals, schedule)


def kernel_schedule(columns: PagedColumns, page_size: int, heads: Heads) -> KernelSchedule:
    """What the TPU kernel visits, with the tuned block sizes of the chip that is there."""
    num_columns = columns.page_indices.size * page_size
    return KernelSchedule.of_intervals(columns.row_intervals, num_columns, heads)
