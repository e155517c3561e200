"""Measures, on a TPU or with CUDA, one attention call and the whole scoring step of a model.

With CUDA only the xla back end runs, and the dense mask. On a CPU, everything does, the kernels in their interpreters:
a rehearsal, whose times mean nothing. Nothing here has run on a TPU or with CUDA yet.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bench_tpu.models import MODELS
from bench_tpu.rows import Row, make_row
from bench_tpu.scoring_step import Readout, ScoringStep
from benchmark import alternating_seconds, error_line
from isoprefill import PackedLayout, multi_item_attention
from isoprefill.models.config.config import ModelConfig
from isoprefill.modes import Backend
from isoprefill_tpu_lab.estimate import SPLASH_BLOCKS, splash_attention
from isoprefill_tpu_lab.packs import Pack

# A pack and a model for a rehearsal.
TINY = Pack("tiny", (40,), ((20,) * 4,), query_heads=2, kv_heads=1, head_dim=128)
TINY_MODEL = ModelConfig(
    "qwen3", 512, 256, 256, 2, 2, 1, 128, 1e-6, 1e6, 512, tied_head=True, qk_norm=True
)
MAX_DENSE_ROWS = 16_384
SMALL_ROWS = 512  # splash blocks as large as these are measured on smaller packs, too


def measure(packs: Sequence[Pack], repeats: int) -> Iterator[Row]:
    """Yields a row for every implementation; one that does not run has a row with its error."""
    device = jax.devices()[0].device_kind
    print(f"Measured on one {device}: median of {repeats} calls after a warm-up.", flush=True)
    for pack in packs:
        for label, call in calls(pack):
            known: dict[str, Any]
            try:
                timings = alternating_seconds({label: call}, repeats)
                known = {"seconds": statistics.median(timings[label])}
            except Exception as error:  # what does not fit or compile is part of the answer
                known = {"error": error_line(error)}
            yield make_row(pack.name, device, label, "measured", **known)


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
    kernels = jax.default_backend() != "gpu"
    backend: Backend = "pallas" if kernels else "xla"
    ours = (
        layout.with_schedule("pallas", heads=pack.heads) if kernels else layout.with_schedule("xla")
    )
    label = "isoprefill" if kernels else "isoprefill xla back end"
    attend = jax.jit(multi_item_attention)
    yield label, lambda: jax.block_until_ready(attend(*arrays, ours))
    if rows <= MAX_DENSE_ROWS:
        dense = jax.jit(functools.partial(multi_item_attention, backend="dense"))
        yield "dense mask", lambda: jax.block_until_ready(dense(*arrays, layout))
    if kernels:
        yield from _splash_calls(pack, arrays)
    for name, config in {**MODELS, "tiny": TINY_MODEL}.items():
        if (config.num_query_heads, config.num_kv_heads, config.head_dim) == (*heads[:2], dim):
            for readout in get_args(Readout):
                yield f"{name}, whole step, {readout}", _step(config, pack, readout, backend)


def _splash_calls(pack: Pack, arrays: list[jax.Array]) -> Iterator[tuple[str, Callable[[], Any]]]:
    rows, scale = arrays[0].shape[0], pack.head_dim**-0.5
    for blocks in SPLASH_BLOCKS:
        if max(blocks) > max(rows, SMALL_ROWS):  # it would compute padding
            continue

        @functools.partial(jax.jit, static_argnums=0)
        def attend(blocks: Any, q: Any, k: Any, v: Any) -> Any:
            interpret = jax.default_backend() != "tpu"
            splash, padded = splash_attention(pack, blocks, interpret=interpret)
            pad = ((0, padded - rows), (0, 0), (0, 0))
            heads_first = (jnp.pad(x, pad).swapaxes(0, 1) for x in (q * scale, k, v))
            return splash(*heads_first).swapaxes(0, 1)

        yield (
            "splash " + "/".join(map(str, blocks)),
            lambda attend=attend, blocks=blocks: jax.block_until_ready(attend(blocks, *arrays)),
        )


def _step(config: ModelConfig, pack: Pack, readout: Readout, backend: Backend) -> Callable[[], Any]:
    """Returns a call of the scoring step that the engine runs, with random weights."""
    rng = np.random.default_rng(0)

    def random(shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32) * 0.02, pack.dtype)

    step = ScoringStep.of(config, pack, readout, backend)
    params, inputs, score = step.params(random), step.inputs, step.function()
    return lambda: jax.block_until_ready(score(params, *inputs))
