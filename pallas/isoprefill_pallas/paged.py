"""Attention over a paged KV cache: keys and values are stored in pages, which a page table lists.

The cache of a layer is fused as sglang-jax fuses it: [pages, page_size, 2 Hkv / packing, packing, Dp], heads
interleaved K0, V0, K1, V1. packing is 2 for bfloat16 (K and V of a head share the 32-bit words of a TPU) and 1 for
float32; Dp is head_dim padded to a multiple of 128.

Columns are those of the page table: column c is place c % page_size of page page_indices[c // page_size], so every
request starts on a page of its own. Of page i only the first page_lens[i] tokens count. What lies behind them, and in
pages that the table does not name, is never read into a result: it may hold anything, NaN included.

`gather_columns` copies the pages of one layer into contiguous K and V, once, and the kernel of kernel.py does the rest.
Reading pages inside that kernel instead would issue the same copies again for every KV head and every Q tile;
docs/kernel.md has the numbers.

Letters: T rows, S = n * page_size columns of n pages, Hq query heads, Hkv key and value heads, D head_dim.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int32

from isoprefill_csrc import LANES
from isoprefill_pallas.op import attend
from isoprefill_pallas.schedule import KernelSchedule

FusedCache = Float[Array, "pages page_size heads packing Dp"]
MAX_PAGE_SIZE = 256


def paged_attention(
    q: Float[Array, "T Hq D"],
    kv_pages: FusedCache,
    page_indices: Int32[Array, "n"],
    page_lens: Int32[Array, "n"],
    schedule: KernelSchedule,
    *,
    scale: float,
    soft_cap: float | None = None,
    interpret: bool | pltpu.InterpretParams | None = None,
    vmem_limit_bytes: int | None = None,
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    """Isolated multi-item attention of rows over columns that lie in pages; write new keys and values first.

    Args:
        q: bfloat16 or float32, as the cache.
        kv_pages: the fused cache of one layer.
        page_indices: the pages of the columns, in order; n may include padding, any page with page_lens 0. Inside
            jax.jit nobody can check them: call `check_page_table` before.
        page_lens: how many tokens of each of these pages count.
        schedule: of the columns that each row sees, `KernelSchedule.of_intervals(row_intervals, n * page_size, heads)`;
            none of them beyond page_lens.
        scale, soft_cap, interpret, vmem_limit_bytes: as in `attend`.

    Returns:
        The output in q's dtype, zeros for padding, and the natural log-sum-exp of each row's scores, float32,
        -inf for padding.

    Raises:
        ValueError: naming the argument, its value and what is expected.
    """
    _check(kv_pages, page_indices, page_lens, q.shape[2])
    columns = page_indices.shape[0] * kv_pages.shape[1]
    if schedule.num_columns != columns:
        raise ValueError(
            f"schedule must cover the {columns} columns of page_indices, got one for {schedule.num_columns}"
        )
    if not any(isinstance(table, jax.core.Tracer) for table in (page_indices, page_lens)):
        check_page_table(page_indices, page_lens, kv_pages.shape[0], kv_pages.shape[1])
    if q.dtype != kv_pages.dtype:
        raise ValueError(f"q must have the cache's dtype {kv_pages.dtype}, got {q.dtype}")
    k, v = gather_columns(kv_pages, page_indices, page_lens, head_dim=q.shape[2])
    return attend(
        q,
        k,
        v,
        schedule,
        scale=scale,
        soft_cap=soft_cap,
        interpret=interpret,
        vmem_limit_bytes=vmem_limit_bytes,
    )


def gather_columns(
    kv_pages: FusedCache,
    page_indices: Int32[Array, "n"],
    page_lens: Int32[Array, "n"],
    *,
    head_dim: int,
) -> tuple[Float[Array, "S Hkv D"], Float[Array, "S Hkv D"]]:
    """Keys and values of the columns, contiguous, with zeros where page_lens says that nothing counts."""
    _, page_size, heads, packing, padded = kv_pages.shape
    fused = kv_pages[page_indices].reshape(-1, heads * packing // 2, 2, padded)
    place = jnp.arange(fused.shape[0]) % page_size
    counts = place < jnp.repeat(page_lens, page_size)
    fused = jnp.where(counts[:, None, None, None], fused, 0)
    return fused[:, :, 0, :head_dim], fused[:, :, 1, :head_dim]


def write_columns(
    kv_pages: FusedCache,
    k: Float[Array, "T Hkv D"],
    v: Float[Array, "T Hkv D"],
    slots: Int32[Array, "T"],
) -> FusedCache:
    """The cache with keys and values of new tokens in their slots; donate the cache, and it is written in place.

    Args:
        slots: where each token goes, page * page_size + place in the page; below 0 for padding, which goes nowhere.
    """
    pages, page_size, heads, packing, padded = kv_pages.shape
    tokens, kv_heads, head_dim = k.shape
    fused = jnp.stack([k, v], axis=2).reshape(tokens, 2 * kv_heads, head_dim)
    fused = jnp.pad(fused, ((0, 0), (0, 0), (0, padded - head_dim))).astype(kv_pages.dtype)
    flat = kv_pages.reshape(pages * page_size, heads, packing, padded)
    outside = jnp.where(slots < 0, pages * page_size, slots)
    written = flat.at[outside].set(fused.reshape(tokens, heads, packing, padded), mode="drop")
    return written.reshape(kv_pages.shape)


def check_page_table(
    page_indices: Int32[np.ndarray | Array, "n"],
    page_lens: Int32[np.ndarray | Array, "n"],
    num_pages: int,
    page_size: int,
) -> None:
    """Refuses a page table that names pages or places that the cache does not have.

    Raises:
        ValueError: naming the entry, its value and the limit.
    """
    for name, table, most in (
        ("page_indices", np.asarray(page_indices), num_pages - 1),
        ("page_lens", np.asarray(page_lens), page_size),
    ):
        outside = np.flatnonzero((table < 0) | (table > most))
        if outside.size:
            raise ValueError(
                f"{name}[{outside[0]}] must be from 0 to {most}, got {table[outside[0]]}"
            )


def packing_of(dtype: Any) -> int:
    """Values that share a 32-bit word in the cache."""
    return 4 // jnp.dtype(dtype).itemsize


def _check(
    kv_pages: jax.Array, page_indices: jax.Array, page_lens: jax.Array, head_dim: int
) -> None:
    if kv_pages.ndim != 5:
        raise ValueError(
            "kv_pages must have 5 dimensions [pages, page_size, 2 Hkv / packing, packing, padded head_dim], got shape "
            f"{kv_pages.shape}"
        )
    _, page_size, _, packing, padded = kv_pages.shape
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise ValueError(f"page_size must be from 1 to {MAX_PAGE_SIZE}, got {page_size}")
    if packing != packing_of(kv_pages.dtype):
        raise ValueError(
            f"packing of {kv_pages.dtype} must be {packing_of(kv_pages.dtype)}, got {packing}"
        )
    if padded != -(-head_dim // LANES) * LANES:
        raise ValueError(
            f"the cache's last dimension must be head_dim {head_dim} padded to a multiple of {LANES}, got {padded}"
        )
    if page_indices.shape != page_lens.shape or page_indices.ndim != 1:
        raise ValueError(
            "page_indices and page_lens must have the same shape [n], got "
            f"{page_indices.shape} and {page_lens.shape}"
        )
