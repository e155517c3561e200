"""Attention to a packing with flex_attention, with the definition of isolation as its mask rule."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex_api

from isoprefill_torch.model import Attend
from isoprefill_torch.packing import Packing


def attention(packing: Packing, device: torch.device, *, compiled: bool) -> Attend:
    """Returns attention under the isolation mask of a packing."""
    segments = packing.segments.to(device)

    def rule(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        own, seen = segments[row], segments[column]
        return (column <= row) & ((seen == 0) | ((seen == own) & (own > 0)))

    length = segments.numel()
    blocks = flex_api.create_block_mask(rule, None, None, length, length, device=str(device))
    flex_attention = _compiled() if compiled else flex_api.flex_attention

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        # A hidden delimiter sees the prefix only, so no row is empty.
        return flex_attention(q, k, v, block_mask=blocks, scale=scale, enable_gqa=True)

    return attend


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_api.flex_attention, dynamic=False)
