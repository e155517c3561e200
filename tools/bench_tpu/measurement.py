"""Measures, on a TPU or with CUDA, one attention call and the whole scoring step of a model.

With CUDA only the xla back end runs, and the dense mask. This file has not run on either yet.
"""

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench_tpu.rows import Row, make_row
from benchmark import alternating_seconds, error_line
from isoprefill import PackedLayout, multi_item_attention
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.parameters import parameters_of
from isoprefill.models.decoder.decoder import decode
from isoprefill.models.decoder.head import logprobs_at
from isoprefill.models.weights.params import Params
from isoprefill_tpu_lab.estimate import SPLASH_BLOCKS, splash_attention
from isoprefill_tpu_lab.packs import PACKS, Pack

# The models whose heads the workloads have; weights are random.
MODELS = {
    (16, 8, 128): ModelConfig(
        "qwen3", 151936, 1024, 3072, 28, 16, 8, 128, 1e-6, 1e6, 40960, tied_head=True, qk_norm=True
    ),
    (9, 3, 64): ModelConfig(
        "llama", 49152, 576, 1536, 30, 9, 3, 64, 1e-5, 1e5, 8192, tied_head=True
    ),
}
MAX_DENSE_ROWS = 16_384


def measure(workloads: list[str], repeats: int) -> Iterator[Row]:
    """Yields a row for every implementation; one that does not run has a row with its error."""
    device = jax.devices()[0].device_kind
    print(f"Measured on one {device}: median of {repeats} calls after a warm-up.", flush=True)
    for name in workloads:
        for label, call in calls(PACKS[name]):
            known: dict[str, Any]
            try:
                timings = alternating_seconds({label: call}, repeats)
                known = {"seconds": statistics.median(timings[label])}
            except Exception as error:  # what does not fit or compile is part of the answer
                known = {"error": error_line(error)}
            yield make_row(name, device, label, "measured", **known)


def calls(pack: Pack) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields what is measured on a pack: (label, a call that returns when its result is there)."""
    layout = PackedLayout.concat(
        [
            PackedLayout.from_lengths(prefix, list(lens))
            for prefix, lens in zip(pack.prefix_lens, pack.item_lens, strict=True)
        ]
    )
    rows, dim, dtype = layout.num_rows, pack.head_dim, jnp.dtype(pack.dtype)
    keys = jax.random.split(jax.random.key(0), 3)
    heads = (pack.query_heads, pack.kv_heads, pack.kv_heads)
    arrays = [jax.random.normal(k, (rows, n, dim), dtype) for k, n in zip(keys, heads, strict=True)]
    on_tpu = jax.default_backend() == "tpu"
    ours = (
        layout.with_schedule("pallas", heads=pack.heads) if on_tpu else layout.with_schedule("xla")
    )
    label = "isoprefill" if on_tpu else "isoprefill xla back end"
    attend = jax.jit(multi_item_attention)
    yield label, lambda: jax.block_until_ready(attend(*arrays, ours))
    if rows <= MAX_DENSE_ROWS:
        dense = jax.jit(functools.partial(multi_item_attention, backend="dense"))
        yield "dense mask", lambda: jax.block_until_ready(dense(*arrays, layout))
    if on_tpu:
        yield from _splash_calls(pack, arrays)
    config = MODELS.get((*heads[:2], dim))
    if config is not None:
        yield f"{label}, whole step", _step(config, ours)


def _splash_calls(pack: Pack, arrays: list[jax.Array]) -> Iterator[tuple[str, Callable[[], Any]]]:
    rows, scale = arrays[0].shape[0], pack.head_dim**-0.5
    for blocks in SPLASH_BLOCKS:

        @functools.partial(jax.jit, static_argnums=0)
        def attend(blocks: Any, q: Any, k: Any, v: Any) -> Any:
            splash, padded = splash_attention(pack, blocks)
            pad = ((0, padded - rows), (0, 0), (0, 0))
            heads_first = (jnp.pad(x, pad).swapaxes(0, 1) for x in (q * scale, k, v))
            return splash(*heads_first).swapaxes(0, 1)

        yield (
            "splash " + "/".join(map(str, blocks)),
            lambda attend=attend, blocks=blocks: jax.block_until_ready(attend(blocks, *arrays)),
        )


def _step(config: ModelConfig, layout: PackedLayout) -> Callable[[], Any]:
    """Returns a call of all layers over the pack, and of the log-probabilities of one token at each read-out row."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32) * 0.02, jnp.bfloat16)

    parameters = parameters_of(config).items()
    params = Params.from_fields({field: random(*row.shape(config)) for field, row in parameters})
    tokens = jnp.asarray(rng.integers(0, config.vocab_size, layout.num_rows), jnp.int32)
    readout = jnp.asarray(layout.readout_rows)
    wanted = jnp.zeros((readout.shape[0], 1), jnp.int32)

    @jax.jit
    def step(params: Params, tokens: jax.Array, layout: PackedLayout) -> jax.Array:
        hidden, _ = decode(
            params,
            config,
            tokens,
            jnp.asarray(layout.positions),
            lambda q, k, v, _: multi_item_attention(q, k, v, layout),
        )
        return logprobs_at(
            params, config, hidden, readout, jnp.asarray(readout.shape[0], jnp.int32), wanted
        )

    return lambda: jax.block_until_ready(step(params, tokens, layout))
