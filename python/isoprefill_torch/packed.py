"""Hidden states of a packed request: all items in one row of tokens, with one attention or another.

T rows of the packing.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import flex_attention as flex_api

from isoprefill_torch.model import Attend, CausalLM
from isoprefill_torch.packing import Packing


def causal(model: CausalLM, packing: Packing) -> Float[Tensor, "T hidden"]:
    """Runs transformers without a mask: every token sees all tokens before it."""
    return model.hidden_states(packing.token_ids[None])[0]


def dense(
    model: CausalLM, packing: Packing, mask: Bool[Tensor, "T T"]
) -> Float[Tensor, "T hidden"]:
    """Runs transformers with a mask."""
    return model.hidden_states(
        packing.token_ids[None],
        positions=packing.positions.to(model.device),
        mask=mask.to(model.device)[None, None],
    )[0]


def flex(model: CausalLM, packing: Packing, *, compiled: bool) -> Float[Tensor, "T hidden"]:
    """Runs flex_attention, with the definition of isolation as its mask rule."""
    segments = packing.segments.to(model.device)

    def rule(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        own, seen = segments[row], segments[column]
        return (column <= row) & ((seen == 0) | ((seen == own) & (own > 0)))

    length = segments.numel()
    blocks = flex_api.create_block_mask(rule, None, None, length, length, device=str(model.device))
    attention = _flex_attention(compiled)

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        # A hidden delimiter sees the prefix only, so no row is empty.
        return attention(q, k, v, block_mask=blocks, scale=scale, enable_gqa=True)

    return with_attention(model, packing, attend)


def with_attention(model: CausalLM, packing: Packing, attend: Attend) -> Float[Tensor, "T hidden"]:
    """Runs transformers with an attention function."""
    return model.hidden_states_with(
        attend, packing.token_ids[None], packing.positions.to(model.device)
    )[0]


@functools.cache
def _flex_attention(compiled: bool) -> Callable[..., Tensor]:
    if not compiled:
        return flex_api.flex_attention
    return torch.compile(flex_api.flex_attention, dynamic=False)
