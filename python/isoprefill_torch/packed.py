"""Packed scoring: all items in one row of tokens, with one attention or another."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor
from torch.nn.attention import flex_attention as flex_api

from isoprefill_torch.head import item_logprobs
from isoprefill_torch.model import CausalLM
from isoprefill_torch.packing import Packing

# Hidden states [1, T, hidden] of a packing.
PackedForward = Callable[[CausalLM, Packing], Tensor]


def logprobs(
    model: CausalLM,
    packing: Packing,
    forward: PackedForward,
    items: Sequence[Sequence[int]],
    labels: Sequence[int] | None,
) -> Float64[np.ndarray, "N *L"]:
    """Scores the items of a packing. Under `torch.inference_mode`."""
    hidden = forward(model, packing)[0]
    return item_logprobs(model, hidden, packing.context_rows, packing.first_rows, items, labels)


def causal(model: CausalLM, packing: Packing) -> Tensor:
    """transformers without a mask: every token sees all tokens before it."""
    return model.hidden_states(packing.token_ids[None])


def dense(mask: Bool[Tensor, "T T"]) -> PackedForward:
    """transformers with a 4-D mask."""

    def forward(model: CausalLM, packing: Packing) -> Tensor:
        return model.hidden_states(
            packing.token_ids[None],
            positions=packing.positions.to(model.device),
            mask=mask[None, None],
        )

    return forward


def flex(packing: Packing, device: torch.device, compiled: bool) -> PackedForward:
    """flex_attention, with the definition as its mask rule."""
    segments = packing.segments.to(device)

    def rule(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        own, seen = segments[row], segments[column]
        return (column <= row) & ((seen == 0) | ((seen == own) & (own > 0)))

    length = segments.numel()
    blocks = flex_api.create_block_mask(rule, None, None, length, length, device=str(device))

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        # A hidden delimiter sees the prefix only, so no row is empty.
        attention = _flex_attention(compiled)
        return attention(q, k, v, block_mask=blocks, scale=scale, enable_gqa=True)

    return with_attention(attend)


def with_attention(attend: Any) -> PackedForward:
    """transformers with an attention function: see `model.Attend`."""

    def forward(model: CausalLM, packing: Packing) -> Tensor:
        return model.hidden_states_with(
            attend, packing.token_ids[None], packing.positions.to(model.device)
        )

    return forward


@functools.cache
def _flex_attention(compiled: bool) -> Callable[..., Tensor]:
    if not compiled:
        return flex_api.flex_attention
    return torch.compile(flex_api.flex_attention, dynamic=False)
