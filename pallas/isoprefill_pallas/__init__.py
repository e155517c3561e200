"""Isolated multi-item attention on a TPU: the Pallas kernel, its schedule, and the dense reference.

    layout = build_layout(prefix_lens=[50], item_lens=[[3, 20, 7]])  # a query of 50 tokens, three items
    schedule = KernelSchedule.of(layout, Heads(16, 8, 128, "bfloat16"))
    out, lse = attend(q, k, v, schedule, scale=128**-0.5)  # also inside jax.jit, schedule an argument

`paged` holds the same over a paged KV cache. Names load when they are first used: importing this package alone does
not import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoprefill_csrc import build_layout
    from isoprefill_pallas.block_sizes import BlockSizes
    from isoprefill_pallas.heads import Heads
    from isoprefill_pallas.op import attend
    from isoprefill_pallas.reference import dense_attention
    from isoprefill_pallas.schedule import KernelSchedule

_HOMES = {
    "BlockSizes": "isoprefill_pallas.block_sizes",
    "Heads": "isoprefill_pallas.heads",
    "KernelSchedule": "isoprefill_pallas.schedule",
    "attend": "isoprefill_pallas.op",
    "build_layout": "isoprefill_csrc",
    "dense_attention": "isoprefill_pallas.reference",
}

__all__ = ["BlockSizes", "Heads", "KernelSchedule", "attend", "build_layout", "dense_attention"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
