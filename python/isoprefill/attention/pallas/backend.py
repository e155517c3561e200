"""The back end "pallas": the TPU kernel of isoprefill_pallas. Without a TPU it runs in the TPU interpreter."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

import isoprefill_csrc
from isoprefill.attention.backend import Attended, AttentionBackend
from isoprefill.attention.layout import PackedLayout
from isoprefill_pallas import BlockSizes, Heads, KernelSchedule, attend
from isoprefill_pallas.heads import HEAD_DIMS, AttentionHeads


def _attend(q: Array, k: Array, v: Array, layout: PackedLayout, **options: Any) -> Attended:
    head_dim = q.shape[2]
    missing = _kernel_heads(AttentionHeads.of(q, k)).head_dim - head_dim
    if missing:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, missing))) for x in (q, k, v))
    out, lse = attend(q, k, v, layout.schedule, **options)  # with the scale of the head as it is
    return out[..., :head_dim], lse


def _kernel_heads(heads: AttentionHeads) -> Heads:
    """Returns the heads that the kernel computes: others are padded with zeros to the next size that it has."""
    wide = next((size for size in HEAD_DIMS if size >= heads.head_dim), None)
    if wide is None:
        raise ValueError(
            f"the pallas back end takes head_dim up to {HEAD_DIMS[-1]}, got {heads.head_dim}"
        )
    return Heads(heads.query_heads, heads.kv_heads, wide, heads.dtype)


def _schedule(
    layouts: Sequence[isoprefill_csrc.Layout],
    heads: AttentionHeads | None,
    *,
    chip: str | None = None,
    block_sizes: BlockSizes | None = None,
) -> list[KernelSchedule]:
    """Returns a schedule for each layout, all for the block sizes that are best for the first.

    Args:
        layouts: of one size.
        heads: of the attention; they choose the block sizes.
        chip: the TPU whose tuned block sizes are taken, such as "v6e"; by default the one that is there.
        block_sizes: instead of `heads` and `chip`.
    """
    if heads is None and block_sizes is None:
        raise ValueError("the schedule of 'pallas' needs heads or block_sizes, got neither")
    kernel_heads = None if heads is None else _kernel_heads(heads)
    first = KernelSchedule.of(layouts[0], kernel_heads, chip=chip, sizes=block_sizes)
    others = [KernelSchedule.of(layout, sizes=first.sizes) for layout in layouts[1:]]
    schedules = [first, *others]
    parts = [[part.num_rows for part in schedule.parts] for schedule in schedules]
    if any(rows != parts[0] for rows in parts):
        raise ValueError(
            "packs that run side by side must be split into the same parts to fit scalar memory, got parts of "
            f"{parts} rows: lower pack_tokens"
        )
    return schedules


BACKEND = AttentionBackend(
    "pallas",
    _attend,
    _kernel_heads,
    platform="tpu",
    schedule=_schedule,
    schedule_options=("chip", "block_sizes"),
    takes_interpret=True,
)
