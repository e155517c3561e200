"""Isolated multi-item attention on a TPU: the Pallas kernel, its schedule, and the dense reference.

    layout = build_layout(prefix_lens=[50], item_lens=[[3, 20, 7]])  # a query of 50 tokens, three items
    schedule = KernelSchedule.of(layout, Heads(16, 8, 128, "bfloat16"))
    out, lse = attend(q, k, v, schedule, scale=128**-0.5)  # also inside jax.jit, schedule an argument

`paged` holds the same over a paged KV cache.
"""

from isoprefill_csrc import build_layout
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.heads import Heads
from isoprefill_pallas.op import attend
from isoprefill_pallas.reference import dense_attention
from isoprefill_pallas.schedule import KernelSchedule

__all__ = ["BlockSizes", "Heads", "KernelSchedule", "attend", "build_layout", "dense_attention"]
