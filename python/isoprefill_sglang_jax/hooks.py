"""`install()`: where our code enters sglang-jax.

sglang-jax has no registry of attention back ends, so the few functions below are replaced by wrappers around them.
versions.py checks beforehand that they are what the wrappers expect.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any, get_args

from sgl_jax.srt.entrypoints import engine
from sgl_jax.srt.layers.attention.flashattention_backend import FlashAttention
from sgl_jax.srt.layers.attention.native_backend import NativeAttention
from sgl_jax.srt.layers.logits_processor import LogitsMetadata, LogitsProcessor
from sgl_jax.srt.managers import scheduler_output_processor_mixin as output_processor
from sgl_jax.srt.managers.schedule_batch import ScheduleBatch
from sgl_jax.srt.managers.scheduler import Scheduler
from sgl_jax.srt.managers.tokenizer_manager import TokenizerManager
from sgl_jax.srt.model_executor.model_runner import ModelRunner

from isoprefill_sglang_jax import processes, requests, scoring
from isoprefill_sglang_jax.backend import Attention, MultiItemAttention, kernel_heads
from isoprefill_sglang_jax.batch import make_multi_item
from isoprefill_sglang_jax.logits import (
    ReadoutLogitsMetadata,
    ReadoutLogitsOutput,
    with_readouts,
)
from isoprefill_sglang_jax.versions import check_versions

_lock = threading.Lock()
_installed = False


def install(*, attention: Attention = "auto", allow_untested: bool = False) -> None:
    """Makes sglang-jax score the items of a request in one prefill, isolated from one another.

    Call it before the engine or the server is started, in the process that starts it; child processes follow. A second
    call does nothing. Generation and everything else stay with sglang-jax.

    Args:
        attention: what computes the attention of passes with multi-item requests: "pallas", the TPU kernel (in the TPU
            interpreter where there is no TPU, which is slow); "xla"; "auto" is the kernel on a TPU, XLA elsewhere.
        allow_untested: accept other versions of Python and jax than it was tested with. A different interface
            of sglang-jax is never accepted.

    Raises:
        ValueError: `attention` is none of these.
        IncompatibleSglangJaxError: this sglang-jax is not the one that this was made for; says what differs.
    """
    global _installed
    if attention not in get_args(Attention):
        raise ValueError(f"attention must be one of {get_args(Attention)}, got {attention!r}")
    with _lock:
        if _installed:
            return
        check_versions(allow_untested=allow_untested)
        options = {"attention": attention, "allow_untested": allow_untested}
        _wrap(
            engine,
            "run_scheduler_process",
            lambda _: functools.partial(processes.run_scheduler_process, options),
        )
        _wrap(TokenizerManager, "score_request", scoring.multi_item)
        _wrap(Scheduler, "_add_request_to_queue", _accepting)
        _wrap(ScheduleBatch, "get_model_worker_batch", _with_items)
        _wrap(
            ModelRunner, "_get_attention_backend", functools.partial(_with_our_attention, attention)
        )
        _wrap(LogitsProcessor, "__call__", with_readouts)
        _wrap(ModelRunner, "forward", _taking_readouts)
        _wrap(
            output_processor.SchedulerOutputProcessorMixin,
            "maybe_collect_routed_experts",
            _attaching_scores,
        )
        _wrap(output_processor, "release_kv_cache", _not_caching_items)
        metadata_of = LogitsMetadata.from_model_worker_batch
        LogitsMetadata.from_model_worker_batch = staticmethod(_with_readout_rows(metadata_of))
        _installed = True


def _wrap(
    owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    original = getattr(owner, name)
    wrapped = wrapper(original)
    if not isinstance(wrapped, functools.partial):
        functools.update_wrapper(wrapped, original)
    setattr(owner, name, wrapped)


def _accepting(call: Callable[..., Any]) -> Callable[..., Any]:
    def _add_request_to_queue(self: Any, req: Any) -> Any:
        requests.accept(self, req)
        return call(self, req)

    return _add_request_to_queue


def _with_items(call: Callable[..., Any]) -> Callable[..., Any]:
    def get_model_worker_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = call(self, *args, **kwargs)
        batch.isoprefill_items = make_multi_item(self, batch)
        return batch

    return get_model_worker_batch


def _with_our_attention(attention: Attention, call: Callable[..., Any]) -> Callable[..., Any]:
    def _get_attention_backend(self: Any) -> Any:
        own = call(self)
        # Others have back ends with more to them than attention over this cache; requests.unsupported names them.
        if self.spec_algorithm.is_none() and type(own) in (FlashAttention, NativeAttention):
            return MultiItemAttention(
                own,
                page_size=self.page_size,
                mesh=self.mesh,
                kernel_heads=kernel_heads(self, attention),
            )
        return own

    return _get_attention_backend


def _with_readout_rows(call: Callable[..., Any]) -> Callable[..., Any]:
    def from_model_worker_batch(batch: Any, mesh: Any = None) -> Any:
        own = call(batch, mesh)
        items = getattr(batch, "isoprefill_items", None)
        return own if items is None else ReadoutLogitsMetadata.make(own, items, mesh)

    return from_model_worker_batch


def _taking_readouts(call: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, forward_batch: Any, logits_metadata: Any) -> Any:
        output, *rest = call(self, forward_batch, logits_metadata)
        if isinstance(output, ReadoutLogitsOutput):
            logits_metadata.readouts.set(output.logprobs)
            output = output.own
        return (output, *rest)

    return forward


def _attaching_scores(call: Callable[..., Any]) -> Callable[..., Any]:
    def maybe_collect_routed_experts(self: Any, req: Any) -> Any:
        collected = call(self, req)
        requests.attach_scores(req)
        return collected

    return maybe_collect_routed_experts


def _not_caching_items(call: Callable[..., Any]) -> Callable[..., Any]:
    def release_kv_cache(req: Any, tree_cache: Any, is_insert: bool = True, **kwargs: Any) -> Any:
        # No other request can use them: see RequestItems.encode.
        is_insert = is_insert and getattr(req, "isoprefill_items", None) is None
        return call(req, tree_cache, is_insert=is_insert, **kwargs)

    return release_kv_cache
