"""Scores a request in one of several ways, by name."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from isoprefill_torch import extend, flashinfer_cuda, flex, masks, unpacked
from isoprefill_torch.head import item_logprobs
from isoprefill_torch.model import CausalLM
from isoprefill_torch.packing import Delimiter, Packing, pack, prefix_tokens

Method = Literal[
    "serial",
    "batched",
    "extend",
    "isolated-dense",
    "flex",
    "causal",
    "flashinfer-rule",
    "leaky-first-item",
    "flashinfer",
]
METHODS: tuple[Method, ...] = get_args(Method)

_MASKS: dict[Method, masks.MaskRule] = {
    "isolated-dense": masks.isolated,
    "flashinfer-rule": masks.flashinfer_rule,
    "leaky-first-item": masks.leaky_first_item,
}

Tokens = Sequence[int]


class TorchScorer:
    """Scores items against a query with PyTorch.

    Methods:
        serial: query + item, one after another.
        batched: query + item, in padded batches.
        extend: the query once, then padded batches of items over its keys and values.
        isolated-dense: packed, with a dense isolation mask.
        flex: packed, flex_attention with the same rule.
        causal: packed, plain causal attention: every item sees the items before it.
        flashinfer-rule: packed with delimiters, FlashInfer's rule as a dense mask.
        leaky-first-item: packed, a published fault: every item sees the first.
        flashinfer: packed with delimiters, FlashInfer's own kernel; CUDA only.

    Not thread-safe: one call at a time.
    """

    def __init__(
        self, model: CausalLM, *, compile_flex: bool = False, keep_prefix: bool = False
    ) -> None:
        """Takes a model of `load_model`.

        With `compile_flex`, flex_attention is compiled once for each length; else it is slow and takes O(T^2) memory.
        With `keep_prefix`, `extend` keeps the prefix of its last call and does not compute the same one again.
        """
        self.model = model
        self._compile_flex = compile_flex
        self._keep_prefix = keep_prefix
        self._kept: extend.Prefix | None = None

    def logprobs(
        self,
        query: Tokens,
        items: Sequence[Tokens],
        labels: Tokens | None = None,
        *,
        method: Method,
        delimiter: Delimiter = "none",
        delimiter_id: int | None = None,
        batch_size: int | None = None,
    ) -> Float64[np.ndarray, "N *L"]:
        """Returns natural log-probabilities of N items, in their order.

        Args:
            query: token ids.
            items: token ids of each item.
            labels: token ids for log P(label | query, item); None for log P(item | query).
            method: see the class.
            delimiter: where delimiters lie, as in docs/design.md. The FlashInfer methods always use "hidden".
            delimiter_id: the delimiter's token.
            batch_size: number of items computed together; all if None. `causal`, whose scores depend on it, takes none.

        Raises:
            ValueError: an argument is out of range; names it, its value and the limit.
        """
        self._check(query, items, labels, method, batch_size)
        if method in ("flashinfer-rule", "flashinfer"):
            # No token sees the delimiter, so any token will do.
            delimiter, delimiter_id = "hidden", 0 if delimiter_id is None else delimiter_id
        prefix = prefix_tokens(query, delimiter, delimiter_id)
        size = 1 if method == "serial" else batch_size or len(items)
        with torch.inference_mode():
            if method == "extend":
                return extend.logprobs(self.model, self._prefill(prefix), items, labels, size)
            if method in ("serial", "batched"):
                return unpacked.logprobs(self.model, prefix, items, labels, size)
            parts = []
            for start in range(0, len(items), size):
                chunk = items[start : start + size]
                packing = pack(query, chunk, delimiter, delimiter_id, causal=method == "causal")
                hidden = self._hidden_states(method, packing)
                rows = (packing.context_rows, packing.first_rows)
                parts.append(item_logprobs(self.model, hidden, *rows, chunk, labels))
            return np.concatenate(parts)

    def _prefill(self, tokens: Tokens) -> extend.Prefix:
        if self._kept is not None and self._kept.tokens == tuple(tokens):
            return self._kept
        prefix = extend.prefill(self.model, tokens)
        self._kept = prefix if self._keep_prefix else None
        return prefix

    def _hidden_states(self, method: Method, packing: Packing) -> Float[Tensor, "T hidden"]:
        tokens = packing.token_ids[None]
        if method == "causal":
            return self.model.hidden_states(tokens)[0]
        mask = attend = None
        if method == "flex":
            attend = flex.attention(packing, self.model.device, compiled=self._compile_flex)
        elif method == "flashinfer":
            attend = flashinfer_cuda.attention(packing, self.model)
        else:
            mask = _MASKS[method](packing)
        positions = packing.positions
        return self.model.hidden_states(tokens, positions=positions, mask=mask, attend=attend)[0]

    def _check(
        self,
        query: Tokens,
        items: Sequence[Tokens],
        labels: Tokens | None,
        method: Method,
        batch_size: int | None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if method == "causal" and batch_size is not None:
            raise ValueError(f"method 'causal' takes no batch_size, got {batch_size}")
        if labels is not None and not len(labels):
            raise ValueError("labels must hold at least 1 token id, got 0")
        named = {"query": query, "labels": labels or [0]}
        named |= {f"items[{index}]": item for index, item in enumerate(items)}
        if not len(items):
            raise ValueError("items must hold at least 1 item, got 0")
        for name, tokens in named.items():
            if not len(tokens):
                raise ValueError(f"{name} must hold at least 1 token, got 0")
            if min(tokens) < 0 or max(tokens) >= self.model.vocab_size:
                raise ValueError(
                    f"{name} must hold token ids in [0, {self.model.vocab_size}), "
                    f"got {min(tokens)} to {max(tokens)}"
                )
