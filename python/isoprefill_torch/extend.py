"""Prefills the query once, then scores batches of items over its keys and values, which are never copied.

Every item row sees the whole prefix, so all rows of a batch attend to it together, as if they were one sequence,
without a mask; each item attends to itself alone; and the two results are merged by their log-sum-exp.

B items, L tokens, P prefix tokens, Hq and Hkv heads, G = Hq / Hkv, D head size.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from jaxtyping import Float, Float64
from torch import Tensor

from isoprefill_torch.batching import by_length, padded
from isoprefill_torch.head import item_logprobs
from isoprefill_torch.model import Attend, CausalLM


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A prefix that has been computed."""

    tokens: tuple[int, ...]
    cache: transformers.DynamicCache
    last: Float[Tensor, "1 hidden"]  # the hidden state of its last token


def prefill(model: CausalLM, tokens: Sequence[int]) -> Prefix:
    """Computes a prefix. Under `torch.inference_mode`."""
    cache = transformers.DynamicCache(config=model.torch_model.config)
    last = model.hidden_states(torch.tensor([tokens]), cache=cache)[0, -1:]
    return Prefix(tuple(tokens), cache, last)


def logprobs(
    model: CausalLM,
    prefix: Prefix,
    items: Sequence[Sequence[int]],
    labels: Sequence[int] | None,
    batch_size: int,
) -> Float64[np.ndarray, "N *L"]:
    """Scores each item over the prefix, which stays as it is. Under `torch.inference_mode`."""
    attend = attention_over(prefix.cache)
    start = len(prefix.tokens)

    def score(batch: Sequence[Sequence[int]]) -> Float64[np.ndarray, "B *L"]:
        tokens = padded(batch)
        length = tokens.shape[1]
        positions = torch.arange(start, start + length)
        hidden = model.hidden_states(tokens, positions=positions, attend=attend).flatten(0, 1)
        context_rows = [len(batch) * length] * len(batch)
        first_rows = range(0, len(batch) * length, length)
        rows = torch.cat([hidden, prefix.last])
        return item_logprobs(model, rows, context_rows, first_rows, batch, labels)

    return by_length(items, batch_size, score)


def attention_over(cache: transformers.DynamicCache) -> Attend:
    """Returns attention of items to the cached prefix and to themselves."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        prefix_k, prefix_v = cache.layers[layer].keys, cache.layers[layer].values
        out, lse = _attend_prefix(q, prefix_k, prefix_v, scale)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        own, own_lse = attention_with_lse(q, k, v, scale, causal=True)
        # The shares of the two parts: exp(lse) over their sum.
        share = torch.sigmoid(lse - own_lse)[..., None].to(q.dtype)
        return out * share + own * (1 - share)

    return attend


def _attend_prefix(
    q: Float[Tensor, "B Hq L D"],
    k: Float[Tensor, "1 Hkv P D"],
    v: Float[Tensor, "1 Hkv P D"],
    scale: float,
) -> tuple[Float[Tensor, "B Hq L D"], Float[Tensor, "B Hq L"]]:
    batch, heads, length, dim = q.shape
    kv_heads = k.shape[1]
    # Rows of one KV head: its G query heads, of all items.
    rows = q.view(batch, kv_heads, -1, length, dim).transpose(0, 1).reshape(1, kv_heads, -1, dim)
    out, lse = attention_with_lse(rows, k, v, scale, causal=False)
    shape = (kv_heads, batch, heads // kv_heads, length)
    out = out.reshape(*shape, dim).transpose(0, 1).reshape(q.shape)
    return out, lse.reshape(shape).transpose(0, 1).reshape(q.shape[:3])


def attention_with_lse(
    q: Float[Tensor, "B H L D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S D"],
    scale: float,
    *,
    causal: bool,
) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L"]]:
    """Computes attention and the log-sum-exp of its scores, which PyTorch's public function does not return."""
    if q.device.type != "cpu":
        return plain_attention_with_lse(q, k, v, scale, causal=causal)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, scale=scale
    )


def plain_attention_with_lse(
    q: Float[Tensor, "B H L D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S D"],
    scale: float,
    *,
    causal: bool,
) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L"]]:
    """Computes the same from the definition, for devices without that kernel; `causal` needs L = S."""
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v, scores.logsumexp(dim=-1)
