"""The attention operation: checks its inputs and hands them to a back end."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from isoprefill.attention.backend import Attended, AttentionBackend
from isoprefill.attention.backends import choose_backend
from isoprefill.attention.inference_only import inference_only
from isoprefill.attention.layout import PackedLayout
from isoprefill.modes import Backend, check_choice
from isoprefill_pallas.heads import AttentionHeads
from isoprefill_pallas.operands import check_operands


def multi_item_attention(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    layout: PackedLayout,
    *,
    backend: Backend = "auto",
    scale: float | None = None,
    soft_cap: float | None = None,
    sinks: Float[Array, "Hq"] | None = None,
    return_lse: bool = False,
    interpret: bool | pltpu.InterpretParams | None = None,
) -> Float[Array, "T Hq D"] | tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    """Computes attention in which a row sees its request's prefix and its own item, and nothing else.

    Works inside `jax.jit`; there the layout must carry the schedule of "xla" or "pallas"
    (`layout.with_schedule(backend)`). Accumulates in float32. Rows that see nothing (padding) give zeros.

    Another item's or request's q, k and v cannot change a row's output by a single bit as long as they are
    finite, nor can NaN or infinity in another's q or k. NaN or infinity in another item's v cannot with "cpu" and
    "xla"; with "pallas" it can where it shares a window or a unit of the kernel with the row, and with "dense"
    anywhere in the pack, because 0 * NaN is NaN.

    It is for inference: only "dense" has a gradient.

    Args:
        q: queries, float32 or bfloat16; T is `layout.num_rows`. Hq is a multiple of Hkv, and query heads
            h * Hq / Hkv and following use KV head h.
        k, v: keys and values, S is `layout.num_columns`; dtype as q.
        layout: what the rows and columns are; its `window` counts.
        backend: "pallas" (the TPU kernel; without a TPU it runs in the TPU interpreter, which is slow), "cpu" (C++,
            CPUs only), "xla", "dense" (the reference, O(T * S) memory) or "auto": the one that the layout was
            scheduled for; else "pallas" on a TPU and "cpu" on a CPU if they take these heads, else "xla".
        scale: factor of the scores, by default 1 / sqrt(D).
        soft_cap: a score s becomes soft_cap * tanh(s / soft_cap); from 1e-30 to 1e30.
        sinks: of each query head, a logit that joins the denominator of the softmax, as if of a column whose value is
            0; float32.
        return_lse: also return the log-sum-exp of each row's scores, without sinks: float32, natural log, -inf for
            padding.
        interpret: "pallas" only: None compiles on a TPU and interprets elsewhere; False compiles for a TPU wherever
            it is lowered; InterpretParams are the interpreter's.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    rows, columns = layout.num_rows, layout.num_columns
    check_operands(q, k, v, of="layout", rows=rows, columns=columns, soft_cap=soft_cap)
    check_choice("backend", backend, Backend)
    heads = AttentionHeads.of(q, k)
    chosen = choose_backend(layout.scheduled_for or "auto" if backend == "auto" else backend, heads)
    if interpret is not None and not chosen.takes_interpret:
        raise ValueError(f"the {chosen.name!r} back end does not take interpret, got {interpret}")
    if rows == 0:  # a cached prefix without items: nothing that a kernel could tile
        out, lse = jnp.zeros_like(q), jnp.zeros(q.shape[:2], jnp.float32)
    else:
        if chosen.schedule and layout.scheduled_for != chosen.name:
            layout = layout.with_schedule(chosen.name, heads=heads)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        options = {} if interpret is None else {"interpret": interpret}
        out, lse = _attend(
            q, k, v, layout, sinks, backend=chosen, scale=scale, soft_cap=soft_cap, **options
        )
    return (out, lse) if return_lse else out


@functools.partial(jax.jit, static_argnames=("backend", "scale", "soft_cap", "interpret"))
def _attend(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    layout: PackedLayout,
    sinks: Float[Array, "Hq"] | None,
    *,
    backend: AttentionBackend,
    **options: Any,
) -> Attended:
    def attend(q: Array, k: Array, v: Array, layout: PackedLayout, sinks: Array | None) -> Attended:
        if sinks is None:
            return backend.attend(q, k, v, layout, **options)
        if backend.takes_sinks:
            return backend.attend(q, k, v, layout, sinks=sinks, **options)
        out, lse = backend.attend(q, k, v, layout, **options)
        share = jax.nn.sigmoid(lse - sinks)  # of what is seen: exp(lse) / (exp(lse) + exp(sink))
        return (out * share[..., None]).astype(out.dtype), lse

    function: Callable[..., Attended] = attend
    if not backend.has_gradient:
        function = inference_only(attend, f"the back end {backend.name!r}")
    return function(q, k, v, layout, sinks)
