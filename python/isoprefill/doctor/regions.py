"""The kernels of a scoring step that take most of its time, each alone, as a TPU can be timed on them.

The shapes are those of a layer of Qwen3-0.6B in bfloat16, over a query of 2000 tokens and 500 items of 20. What the
TPU's own compiler says of them is in estimated.toml: `bazel run //tools:estimate_regions` writes it.

Letters: T rows, E hidden_size, Hq query heads, Hkv KV heads, D head_dim, F intermediate_size, L layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from isoprefill.attention.layout import PackedLayout
from isoprefill.attention.op import multi_item_attention
from isoprefill.attention.padding import bucket_size
from isoprefill_pallas.heads import AttentionHeads
from isoprefill_pallas.layer_kernels import project_gated, project_heads
from isoprefill_pallas.op import device_options

LAYERS = 2  # whose weights are read in turn, so that none of them stays in VMEM


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What is computed: a query and its items, and the sizes of a layer."""

    query: int
    items: tuple[int, ...]
    hidden_size: int
    intermediate_size: int
    query_heads: int
    kv_heads: int
    head_dim: int = 128
    dtype: str = "bfloat16"

    @property
    def num_rows(self) -> int:
        return bucket_size(self.query + sum(self.items))


FULL = Shape(2000, (20,) * 500, 1024, 3072, 16, 8)


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """One kernel, and what it computes.

    Attributes:
        name: as in estimated.toml.
        run: of how often it is to run, and of arrays: runs it so often in one program, and returns the last result.
        shapes: of the arrays, but for the layout, which is whole.
    """

    name: str
    run: Callable[..., jax.Array]
    shapes: tuple[Any, ...]


def regions(shape: Shape = FULL, chip: str | None = None) -> tuple[Region, ...]:
    """Returns the regions.

    Args:
        chip: the TPU whose block sizes the attention takes; by default the one that is there.
    """
    rows, dtype = shape.num_rows, jnp.dtype(shape.dtype)
    heads = AttentionHeads(shape.query_heads, shape.kv_heads, shape.head_dim, shape.dtype)
    options = {} if chip is None else {"chip": chip}
    layout = PackedLayout.from_lengths(shape.query, list(shape.items), pad_to=rows).with_schedule(
        "pallas", heads=heads, **options
    )

    def array(*sizes: int, of: Any = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, of)

    kv = array(rows, shape.kv_heads * shape.head_dim)
    x = array(rows, shape.hidden_size)
    width = shape.query_heads * shape.head_dim
    angles = array(rows, shape.head_dim // 2, of=jnp.float32)
    wide = array(LAYERS, shape.intermediate_size, shape.hidden_size)
    return (
        Region(
            "attention",
            functools.partial(_attention, shape.head_dim),
            (array(rows, width), kv, kv, layout),
        ),
        Region(
            "query projection",
            _query_projection,
            (
                x,
                array(LAYERS, width, shape.hidden_size),
                angles,
                angles,
                array(shape.head_dim, of=jnp.float32),
            ),
        ),
        Region("gate and up", _gate_and_up, (x, wide, wide)),
    )


def _attention(
    head_dim: int,
    times: jax.Array,
    q: jax.Array,  # [T, Hq * D], as the kernel writes its output: another order would be a copy
    k: jax.Array,
    v: jax.Array,
    layout: PackedLayout,
) -> jax.Array:
    """The output is the next queries: else the program could run it once."""

    def attend(_: Any, q: jax.Array) -> jax.Array:
        queries, keys, values = (x.reshape(x.shape[0], -1, head_dim) for x in (q, k, v))
        out = multi_item_attention(queries, keys, values, layout)
        assert isinstance(out, jax.Array)  # and not the log-sum-exp too
        return out.reshape(q.shape)

    return lax.fori_loop(0, times, attend, q)


def _query_projection(
    times: jax.Array,
    x: jax.Array,
    weights: jax.Array,
    cosine: jax.Array,
    sine: jax.Array,
    norm: jax.Array,
) -> jax.Array:
    interpret, limit = device_options()

    def project(layer: jax.Array) -> jax.Array:
        return project_heads(
            x, weights, layer, (cosine, sine), norm,
            head_dim=norm.shape[0], eps=1e-6, interpret=interpret, vmem_limit_bytes=limit,
        )  # fmt: skip

    return _in_turn(times, project, (x.shape[0], weights.shape[1]), x.dtype)


def _gate_and_up(times: jax.Array, x: jax.Array, gate: jax.Array, up: jax.Array) -> jax.Array:
    interpret, limit = device_options()

    def project(layer: jax.Array) -> jax.Array:
        return project_gated(x, gate, up, layer, interpret=interpret, vmem_limit_bytes=limit)

    return _in_turn(times, project, (x.shape[0], gate.shape[1]), x.dtype)


def _in_turn(
    times: jax.Array, project: Callable[[jax.Array], jax.Array], shape: tuple[int, int], dtype: Any
) -> jax.Array:
    """Runs a projection with the weights of one layer after another."""
    return lax.fori_loop(0, times, lambda i, _: project(i % LAYERS), jnp.zeros(shape, dtype))
