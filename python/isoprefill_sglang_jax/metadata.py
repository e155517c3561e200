"""What attention needs in a multi-item pass besides q, k, v and the cache. The host makes it once a pass."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int32
from sgl_jax.srt.layers.attention.base_attn_backend import AttentionBackendMetadata
from sgl_jax.srt.utils.jax_utils import device_array

from isoprefill_pallas import KernelSchedule
from isoprefill_pallas.padding import next_power_of_two
from isoprefill_sglang_jax.batch import MultiItemBatch

LEAST_PAGES = 16  # a power of two


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PagedColumns:
    """Where the columns of a pass lie in the cache, and which of them each row sees: one section a data-parallel rank.

    The requests of a rank follow one another; each starts on a page of its own. Column c of a rank is slot
    `c % page_size` of its page `page_indices[c // page_size]`.

    The arrays are NumPy's on the host, and jax's after `to_devices`.

    Attributes:
        page_indices: padded with page 0.
        page_lens: the number of tokens of each page that count; the rest of a page, and of padding, may hold anything.
        row_intervals: prefix_begin, prefix_end, own_begin, own_end of each row, in columns, half open; padding rows
            see nothing.
    """

    page_indices: Int32[Array, "ranks*n"]
    page_lens: Int32[Array, "ranks*n"]
    row_intervals: Int32[Array, "4 ranks*T"]

    def to_devices(self, mesh: jax.sharding.Mesh) -> "PagedColumns":
        """Puts the section of each rank on its devices."""
        pages = (self.page_indices, self.page_lens)
        page_indices, page_lens = device_array(pages, sharding=NamedSharding(mesh, P("data")))
        sharding = NamedSharding(mesh, P(None, "data"))
        return PagedColumns(page_indices, page_lens, device_array(self.row_intervals, sharding))


def paged_columns(worker_batch: Any, items: MultiItemBatch, page_size: int) -> PagedColumns:
    """Finds the columns of a pass, from sglang-jax's ModelWorkerBatch."""
    ranks = worker_batch.dp_size
    # Requests of a rank lie one after another in cache_loc, each from a multiple of page_size on.
    pages_of_ranks = worker_batch.cache_loc.reshape(ranks, -1)[:, ::page_size] // page_size
    num_pages = [0] * ranks
    for extent in items.extents:
        num_pages[extent.rank] += -(-extent.end // page_size)
    room = next_power_of_two(max(LEAST_PAGES, *num_pages))
    page_indices = np.zeros((ranks, room), np.int32)
    for rank, count in enumerate(num_pages):
        page_indices[rank, :count] = pages_of_ranks[rank, :count]
    page_lens = np.zeros((ranks, room), np.int32)
    intervals = np.zeros((4, ranks, len(worker_batch.input_ids) // ranks), np.int32)
    next_page = [0] * ranks
    for extent in items.extents:
        rank, start, end = extent.rank, extent.start, extent.end
        page, pages = next_page[rank], -(-end // page_size)
        next_page[rank] += pages
        page_lens[rank, page : page + pages] = page_size
        page_lens[rank, page + pages - 1] = end - page_size * (pages - 1)
        here = intervals[:, rank, extent.row : extent.row + end - start]
        here[1] = seen_up_to = np.arange(start, end) + 1
        if extent.items is not None:
            in_item = seen_up_to > extent.items.prefix_len
            here[1] = np.minimum(seen_up_to, extent.items.prefix_len)
            here[2] = np.where(in_item, extent.items.own_begins(start, end), 0)
            here[3] = np.where(in_item, seen_up_to, 0)
        here += page * page_size
    made: Any = (page_indices.reshape(-1), page_lens.reshape(-1), intervals.reshape(4, -1))
    return PagedColumns(*made)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(eq=False)
class MultiItemMetadata(AttentionBackendMetadata):
    """Metadata of a pass: of sglang-jax's own back end, and of ours if there are multi-item requests."""

    own: Any = None
    columns: PagedColumns | None = None  # None in an ordinary pass
    schedule: KernelSchedule | None = None  # of the TPU kernel; None if XLA computes the attention
