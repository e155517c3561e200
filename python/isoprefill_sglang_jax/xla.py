"""Computes the attention of a multi-item pass over the paged cache in XLA, where the TPU kernel cannot.

Every row looks at every column of the pass, a block of rows at a time, so time grows with rows times columns.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from isoprefill_pallas import dense_attention
from isoprefill_pallas.paged import FusedCache, gather_columns
from isoprefill_sglang_jax.metadata import PagedColumns

ROW_BLOCK = 128  # rows whose scores are in memory at a time


def xla_paged_attention(
    q: Float[Array, "T Hq D"],
    kv_pages: FusedCache,
    columns: PagedColumns,
    *,
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "T Hq D"]:
    """Computes what `isoprefill_pallas.paged.paged_attention` does, without a schedule, for one rank."""
    pages = (columns.page_indices, columns.page_lens)
    k, v = (x.astype(q.dtype) for x in gather_columns(kv_pages, *pages, head_dim=q.shape[-1]))
    column = jnp.arange(k.shape[0], dtype=jnp.int32)
    rows = q.shape[0]
    padding = -rows % ROW_BLOCK
    q_blocks = jnp.pad(q, ((0, padding), (0, 0), (0, 0))).reshape(-1, ROW_BLOCK, *q.shape[1:])
    intervals = jnp.pad(columns.row_intervals, ((0, 0), (0, padding))).reshape(4, -1, ROW_BLOCK)

    def block(args: tuple[jax.Array, jax.Array]) -> jax.Array:
        q_block, (prefix_begin, prefix_end, own_begin, own_end) = args
        prefix = (column >= prefix_begin[:, None]) & (column < prefix_end[:, None])
        own = (column >= own_begin[:, None]) & (column < own_end[:, None])
        return dense_attention(q_block, k, v, prefix | own, scale=scale, soft_cap=soft_cap)[0]

    return lax.map(block, (q_blocks, intervals.swapaxes(0, 1))).reshape(-1, *q.shape[1:])[:rows]
