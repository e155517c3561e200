"""Installs our code in sglang-jax.

sglang-jax has no registry of attention back ends, so `install()` replaces the few functions below by wrappers around
them, which stand beside what they do. versions.py checks beforehand that these functions are what the wrappers expect.
"""

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from sgl_jax.srt.entrypoints import engine
from sgl_jax.srt.layers.attention.flashattention_backend import FlashAttention
from sgl_jax.srt.layers.attention.native_backend import NativeAttention
from sgl_jax.srt.layers.logits_processor import LogitsMetadata, LogitsProcessor
from sgl_jax.srt.managers import scheduler
from sgl_jax.srt.managers import scheduler_output_processor_mixin as output_processor
from sgl_jax.srt.managers.schedule_batch import ScheduleBatch
from sgl_jax.srt.managers.tokenizer_manager import TokenizerManager
from sgl_jax.srt.model_executor.model_runner import ModelRunner

from isoprefill.modes import check_choice
from isoprefill_sglang_jax import logits, requests, scoring
from isoprefill_sglang_jax.backend import Attention, MultiItemAttention, kernel_heads
from isoprefill_sglang_jax.batch import make_multi_item
from isoprefill_sglang_jax.versions import check_versions

_lock = threading.Lock()
_installed = False


def install(*, attention: Attention = "auto", allow_untested: bool = False) -> None:
    """Makes sglang-jax score the items of a request in one prefill, isolated from one another.

    Call it before the engine or the server starts, in the process that starts it; child processes follow. A second
    call does nothing. Generation and everything else stay with sglang-jax.

    Args:
        attention: computes the attention of passes with multi-item requests. "pallas" is the TPU kernel (without a TPU
            it runs in the interpreter, which is slow), "xla" is XLA, "auto" is the kernel on a TPU and XLA elsewhere.
        allow_untested: accept versions of Python and jax that the link was not tested with. A different interface of
            sglang-jax is never accepted.

    Raises:
        ValueError: `attention` is none of these.
        IncompatibleSglangJaxError: the interface of this sglang-jax, or a version, is not the expected one; says what
            differs.
    """
    global _installed
    check_choice("attention", attention, Attention)
    with _lock:
        if _installed:
            return
        check_versions(allow_untested=allow_untested)
        options = {"attention": attention, "allow_untested": allow_untested}
        engine.run_scheduler_process = functools.partial(run_scheduler_process, options)
        _wrap(TokenizerManager, "score_request", scoring.score_request)
        _wrap(scheduler.Scheduler, "_add_request_to_queue", requests.accept)
        _wrap(ScheduleBatch, "get_model_worker_batch", _attach_items)
        _wrap(
            ModelRunner, "_get_attention_backend", functools.partial(_choose_attention, attention)
        )
        _wrap(LogitsMetadata, "from_model_worker_batch", logits.attach_readout_rows)
        _wrap(LogitsProcessor, "__call__", logits.process)
        _wrap(ModelRunner, "forward", logits.take_readouts)
        mixin = output_processor.SchedulerOutputProcessorMixin
        _wrap(mixin, "maybe_collect_routed_experts", requests.attach_scores)
        _wrap(output_processor, "release_kv_cache", _release_cache)
        _installed = True


def run_scheduler_process(install_options: dict[str, Any], *args: Any, **kwargs: Any) -> None:
    """Runs sglang-jax's function of this name after `install()`.

    sglang-jax spawns its scheduler. The new process imports everything anew and needs an install of its own.
    """
    install(**install_options)
    scheduler.run_scheduler_process(*args, **kwargs)


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replaces a function by a call of `wrapper`, whose first argument is the original function."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, staticmethod(wrapped) if inspect.ismethod(original) else wrapped)


def _attach_items(call: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    batch = call(self, *args, **kwargs)
    batch.isoprefill_items = make_multi_item(self, batch)
    return batch


def _choose_attention(attention: Attention, call: Callable[..., Any], self: Any) -> Any:
    own = call(self)
    # Other back ends do more than attention over this cache; requests.unsupported names them.
    if self.spec_algorithm.is_none() and type(own) in (FlashAttention, NativeAttention):
        heads = kernel_heads(self, attention)
        return MultiItemAttention(own, page_size=self.page_size, mesh=self.mesh, kernel_heads=heads)
    return own


def _release_cache(
    call: Callable[..., Any], req: Any, tree_cache: Any, is_insert: bool = True, **kwargs: Any
) -> Any:
    # No other request can use the keys and values of items: see RequestItems.encode.
    is_insert = is_insert and getattr(req, "isoprefill_items", None) is None
    return call(req, tree_cache, is_insert=is_insert, **kwargs)
