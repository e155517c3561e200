"""Accepts or refuses multi-item requests in sglang-jax's scheduler, and attaches their scores in the end."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import numpy as np
from sgl_jax.srt.layers.radix_attention import RadixAttention
from sgl_jax.srt.managers.schedule_batch import FINISH_ABORT

from isoprefill_sglang_jax.backend import MultiItemAttention, unsupported_layer
from isoprefill_sglang_jax.items import RequestItems


def accept(call: Callable[..., Any], self: Any, req: Any) -> Any:
    """Wraps Scheduler._add_request_to_queue: gives a request its items, or aborts one that cannot be served."""
    req.isoprefill_items = None
    req.isoprefill_shares = []
    if req.to_finish is None:
        try:
            items = RequestItems.decode(req.extra_key)
            if items is not None:
                _check(self, req, items)
            req.isoprefill_items = items
        except ValueError as error:
            req.set_finish_with_abort(str(error))
            req.to_finish = FINISH_ABORT(str(error), HTTPStatus.BAD_REQUEST, "BadRequestError")
    return call(self, req)


def unsupported(scheduler: Any) -> str | None:
    """Says why this server cannot take multi-item requests; returns None if it can."""
    arguments = scheduler.server_args
    if arguments.speculative_algorithm is not None:
        return f"speculative decoding ({arguments.speculative_algorithm})"
    for name in ("disaggregation_mode", "pd_disaggregation"):
        mode = getattr(arguments, name, None)
        if mode and mode != "null":
            return f"{name} {mode!r}"
    if arguments.enable_mixed_chunk:
        return "enable_mixed_chunk"
    runner = scheduler.tp_worker.get_model_runner()
    if not isinstance(runner.attn_backend, MultiItemAttention):
        return f"the attention back end {type(runner.attn_backend).__name__}"
    for _, module in runner.model.iter_modules():
        if isinstance(module, RadixAttention):
            lacking = unsupported_layer(module)
            if lacking is not None:
                return f"layer {module.layer_id} with {lacking}"
        elif getattr(module, "attention_sink_bias", None) is not None:
            return "attention sinks"
    return None


def _check(scheduler: Any, request: Any, items: RequestItems) -> None:
    tokens = len(request.origin_input_ids)
    if items.num_tokens != tokens:
        raise ValueError(
            f"query and items have {items.num_tokens} tokens, the request has {tokens}"
        )
    vocab = scheduler.model_config.vocab_size
    if max(items.labels) >= vocab:
        raise ValueError(
            f"label token id {max(items.labels)} is not below the vocabulary's size {vocab}"
        )
    if request.sampling_params.max_new_tokens != 0:
        raise ValueError(
            f"a multi-item request must have max_new_tokens 0, got {request.sampling_params.max_new_tokens}"
        )
    if request.lora_id not in (None, "0"):
        raise ValueError("multi-item requests do not take a LoRA adapter")
    if not hasattr(scheduler, "isoprefill_unsupported"):
        scheduler.isoprefill_unsupported = unsupported(scheduler)
    if scheduler.isoprefill_unsupported is not None:
        raise ValueError(f"multi-item scoring does not support {scheduler.isoprefill_unsupported}")


def attach_scores(call: Callable[..., Any], self: Any, req: Any) -> Any:
    """Wraps maybe_collect_routed_experts: attaches the log-probabilities of a finished request, float32 [N, L].

    `routed_experts` is the only array that sglang-jax passes from a request to the front end unchanged. It is empty
    unless a request asks for routed experts.
    """
    collected = call(self, req)
    items: RequestItems | None = getattr(req, "isoprefill_items", None)
    if items is not None:
        shares, req.isoprefill_shares = req.isoprefill_shares, []
        if sum(share.num_rows for share in shares) == len(items.item_lens):  # fewer if aborted
            logprobs = np.concatenate([share.take() for share in shares])
            req.routed_experts = np.ascontiguousarray(logprobs, np.float32)
    return collected
