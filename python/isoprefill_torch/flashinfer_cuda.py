"""Runs FlashInfer's own multi-item attention, which needs CUDA and the package flashinfer-python.

It has not run on CUDA yet. It calls the paged wrapper, the only one of FlashInfer's wrappers that applies the
multi-item parameters.
"""

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from isoprefill_torch.model import Attend, CausalLM
from isoprefill_torch.packing import Packing

WORKSPACE_BYTES = 128 << 20
MAX_ITEM_LEN = 65_535  # FlashInfer keeps positions in items as uint16


def unavailable() -> str | None:
    """Says why FlashInfer cannot be used here; returns None if it can."""
    if not torch.cuda.is_available():
        return "method 'flashinfer' needs CUDA, which is not available"
    if importlib.util.find_spec("flashinfer") is None:
        return "method 'flashinfer' needs the package flashinfer-python"
    return None


def attention(packing: Packing, model: CausalLM) -> Attend:
    """Returns FlashInfer's paged prefill over a packing with delimiter mode "hidden".

    Raises:
        ValueError: FlashInfer cannot be used here, the weights are float32, or an item is too long.
    """
    if reason := unavailable():
        raise ValueError(reason)
    if model.torch_model.dtype == torch.float32:
        raise ValueError("method 'flashinfer' needs bfloat16 weights, got float32")
    if max(packing.item_lens) > MAX_ITEM_LEN:
        raise ValueError(
            f"method 'flashinfer' takes items of at most {MAX_ITEM_LEN} tokens, got {max(packing.item_lens)}"
        )
    wrapper = _planned_wrapper(packing, model)

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        # One page holds the sequence: [1 page, T, Hkv, D].
        q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
        return wrapper.run(q[0], (k, v))[None].transpose(1, 2)

    return attend


def token_pos_in_items(packing: Packing) -> list[int]:
    """Returns, from the first delimiter on, 0 for a delimiter and 1, 2, … for the tokens of an item."""
    return [
        0,
        *(position for length in packing.item_lens for position in (*range(1, length + 1), 0)),
    ]


def _planned_wrapper(packing: Packing, model: CausalLM) -> Any:
    flashinfer = importlib.import_module("flashinfer")
    config, device = model.torch_model.config, model.device
    length = packing.token_ids.numel()
    positions = token_pos_in_items(packing)

    def tensor(values: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
    heads = config.num_attention_heads
    wrapper.plan(
        tensor([0, length]),
        tensor([0, 1]),
        tensor([0]),
        tensor([length]),
        heads,
        config.num_key_value_heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        length,
        causal=True,
        q_data_type=model.torch_model.dtype,
        prefix_len_ptr=tensor([packing.prefix_len], torch.uint32),
        token_pos_in_items_ptr=tensor(positions, torch.uint16),
        token_pos_in_items_len=len(positions),
        max_item_len_ptr=tensor([max(packing.item_lens)], torch.uint16),
    )
    return wrapper
