"""Compiles cases for one chip with libtpu and prints a JSON line for each: `compile_cases.py CHIP CASES`.

CASES is a JSON list of {"kind": …}:

    kernel    "groups", "head_dim", "dtype", "prefixes": the kernel alone, both variants of its softmax; "long" or
              "short" prefixes, which have block sizes of their own
    paged     "groups", "head_dim", "dtype", "page_size": the kernel over a paged KV cache
    step      "model", "dtype", "rows": a whole scoring step of a model, from tokens to log-probabilities
    long      the kernel over 128k rows of items of 20 tokens in the smallest tiles: more than scalar memory holds;
              "smem_words": how much of it goes into one call, by default what the product allows
    controls  "unaligned", "too large" and "default precision", which must not pass
"""

import json
import sys
import time
from typing import Any
from unittest import mock

import compile_models
import lowered_program
from isoprefill_tpu_lab import tpu_compiler

ROWS = 8192
KV_HEADS = 2


def kernel(chip: str, case: dict) -> dict:
    from isoprefill_pallas import KernelSchedule

    layout = layout_of(case["prefixes"])
    schedule = KernelSchedule.of(layout, heads_of(case), chip=chip)
    return attention(chip, case, layout.num_rows, schedule)


def long(chip: str, case: dict) -> dict:
    from isoprefill_csrc import build_layout
    from isoprefill_pallas.block_sizes import BlockSizes
    from isoprefill_pallas.schedule import SMEM_WORDS, KernelSchedule

    layout = build_layout(prefix_lens=[4000], item_lens=[[20] * 6353], pad_to=131072)
    sizes = BlockSizes(128, 128, 128, 128, 128, 2, 160, 128)
    words = case.get("smem_words", SMEM_WORDS)
    schedule = KernelSchedule.of(layout, sizes=sizes, smem_words=words)
    return attention(chip, case, layout.num_rows, schedule) | {"parts": len(schedule.parts)}


def attention(chip: str, case: dict, rows: int, schedule: Any) -> dict:
    """The kernel over contiguous keys and values."""
    import isoprefill_pallas

    def attend(q, k, v, schedule):
        return isoprefill_pallas.attend(q, k, v, schedule, scale=0.1)

    heads = KV_HEADS * case["groups"]
    q = shape((rows, heads, case["head_dim"]), case["dtype"])
    kv = shape((rows, KV_HEADS, case["head_dim"]), case["dtype"])
    lowered = tpu_compiler.lower_for(chip, attend, q, kv, kv, schedule)
    return report(lowered) | {"scores_bytes": rows * rows * heads * 4}


def layout_of(prefixes: str) -> Any:
    """A pack of one of the kinds that have block sizes of their own."""
    from isoprefill_csrc import build_layout

    prefix = {"long": 4000, "short": 300}[prefixes]
    return build_layout(prefix_lens=[prefix], item_lens=[[20] * 50], pad_to=ROWS)


def heads_of(case: dict) -> Any:
    from isoprefill_pallas import Heads

    return Heads(KV_HEADS * case["groups"], KV_HEADS, case["head_dim"], case["dtype"])


def paged(chip: str, case: dict) -> dict:
    import jax.numpy as jnp

    from isoprefill_pallas.paged import packing_of, paged_attention
    from isoprefill_pallas.schedule import KernelSchedule

    intervals = layout_of("long").row_intervals
    schedule = KernelSchedule.of_intervals(intervals, ROWS, heads_of(case), chip=chip)
    head_dim, page_size, dtype = case["head_dim"], case["page_size"], case["dtype"]
    packing = packing_of(dtype)
    cache = (
        2 * ROWS // page_size,
        page_size,
        2 * KV_HEADS // packing,
        packing,
        -(-head_dim // 128) * 128,
    )
    pages = shape((ROWS // page_size,), jnp.int32)

    def attend(q, cache, page_indices, page_lens, schedule):
        return paged_attention(q, cache, page_indices, page_lens, schedule, scale=0.1)

    heads = KV_HEADS * case["groups"]
    lowered = tpu_compiler.lower_for(
        chip,
        attend,
        shape((ROWS, heads, head_dim), dtype),
        shape(cache, dtype),
        pages,
        pages,
        schedule,
    )
    return report(lowered) | {"scores_bytes": ROWS * ROWS * heads * 4}


def step(chip: str, case: dict) -> dict:
    """Every token's hidden state, then the log-probability of each item's tokens."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from isoprefill import PackedLayout
    from isoprefill.attention.backends import choose_backend
    from isoprefill.execution.forward import PackInputs, ReadoutInputs
    from isoprefill.execution.model_runner import compiled_functions
    from isoprefill.models.config.config import ModelConfig
    from isoprefill_pallas.heads import AttentionHeads

    model = compile_models.SMALL | compile_models.PUBLISHED
    config = ModelConfig(**model[case["model"]], rms_norm_eps=1e-6, tied_head=True)
    dtype, rows = case["dtype"], case["rows"]
    heads = AttentionHeads(config.num_query_heads, config.num_kv_heads, config.head_dim, dtype)
    attention = choose_backend("auto", heads).name  # of a TPU; XLA, if its kernel has no such heads
    options = {"chip": chip} if attention == "pallas" else {}
    layout = PackedLayout.from_lengths(rows // 4, [20] * (rows // 40), pad_to=rows)
    layouts = [
        layout.with_window(window).with_schedule(attention, heads=heads, **options)
        for window in config.windows
    ]
    shard = jax.tree.map(
        lambda x: np.asarray(x)[None],
        (
            PackInputs(np.zeros(rows, np.int32), np.asarray(rows, np.int32), *layouts),
            ReadoutInputs(
                np.zeros(rows // 2, np.int32),
                np.asarray(rows // 40 * 20, np.int32),
                np.zeros((rows // 2, 1), np.int32),
            ),
        ),
    )
    functions = compiled_functions(config, attention, None)

    def score(params, pack, readout):
        hidden = functions.hidden_states(params, pack, None, np.int32(0))
        return functions.read(params, hidden, readout)

    weights = parameters(config, jnp.dtype(dtype))
    lowered = tpu_compiler.lower_for(chip, score, weights, *shard)
    return report(lowered) | {"attention": attention}


def parameters(config: Any, dtype: Any) -> Any:
    """The shapes of a model's weights."""
    from isoprefill.models.config.parameters import parameters_of
    from isoprefill.models.weights.params import Params

    parameters = parameters_of(config).items()
    return Params.from_fields({field: shape(row.shape(config), dtype) for field, row in parameters})


def shape(sizes: tuple[int, ...], dtype: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(sizes, dtype)


def unaligned(chip: str, case: dict) -> dict:
    """Reads bfloat16 rows from an offset that nobody promised to be aligned, which Mosaic refuses."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    def body(start, x, out):
        out[...] = x[pl.ds(start[0], 16), :]

    def copy(start, x):
        return pl.pallas_call(
            body,
            in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), pl.BlockSpec(memory_space=pltpu.VMEM)],
            out_shape=jax.ShapeDtypeStruct((16, 128), jnp.bfloat16),
        )(start, x)

    start, x = shape((1,), jnp.int32), shape((256, 128), jnp.bfloat16)
    return report(tpu_compiler.lower_for(chip, copy, start, x))


def too_large(chip: str, case: dict) -> dict:
    """Asks for as much VMEM as there is, beside its operands."""
    import jax
    import jax.numpy as jnp
    from jax import lax
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    from isoprefill_tpu_lab.chips import FIGURES

    vmem_bytes = FIGURES[chip].vmem_bytes
    rows = vmem_bytes // 512

    def body(x, out, scratch):
        def store(i, carry):
            scratch[pl.ds(pl.multiple_of(i * 8, 8), 8), :] = x[...]
            return carry

        lax.fori_loop(0, rows // 8, store, 0)
        out[...] = scratch[rows - 8 :, :]

    def copy(x):
        return pl.pallas_call(
            body,
            out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
            scratch_shapes=[pltpu.VMEM((rows, 128), jnp.float32)],
            compiler_params=pltpu.CompilerParams(vmem_limit_bytes=vmem_bytes),
        )(x)

    return report(tpu_compiler.lower_for(chip, copy, shape((8, 128), jnp.float32)))


def default_precision(chip: str, case: dict) -> dict:
    """Products of float32 that nobody asked to be exact, in a kernel and outside."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl

    def body(x, y, out):
        out[...] = jnp.dot(x[...], y[...], preferred_element_type=jnp.float32)

    def multiply(x, y):
        square = jax.ShapeDtypeStruct((128, 128), jnp.float32)
        return jnp.dot(pl.pallas_call(body, out_shape=square)(x, y), y)

    x = shape((128, 128), jnp.float32)
    return report(tpu_compiler.lower_for(chip, multiply, x, x))


def report(lowered: Any) -> dict:
    """Compiles, and says what the compiler says: memory, and every product with its precision."""
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    try:
        vmem_bytes = lowered_program.vmem_bytes(compiled.as_text())
    except RuntimeError:  # libtpu's HLO is not always one that this jaxlib reads
        vmem_bytes = None
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "hbm_bytes": memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        + memory.argument_size_in_bytes,
        "vmem_bytes": vmem_bytes,
        "smem_bytes": lowered_program.smem_bytes(lowered),
        "products": lowered_program.products(lowered),
    }


KINDS = {
    "kernel": kernel,
    "long": long,
    "paged": paged,
    "step": step,
    "unaligned": unaligned,
    "too large": too_large,
    "default precision": default_precision,
}


def main(chip: str, cases: list[dict]) -> None:
    tpu_compiler.prepare_process(chip)
    import jax

    from isoprefill_pallas.chips import CHIPS

    # What the product asks JAX, answered for the chip that is compiled for.
    with (
        mock.patch.object(jax, "default_backend", return_value="tpu"),
        mock.patch("isoprefill_pallas.op.chip_of", return_value=CHIPS[chip]),
    ):
        for case in cases:
            start = time.perf_counter()
            try:
                result = KINDS[case["kind"]](chip, case)
            except Exception as error:  # a case that does not compile is a result
                result = {"error": f"{type(error).__name__}: {error}"[:2000]}
            result["seconds"] = round(time.perf_counter() - start, 1)
            print(json.dumps({"case": case, **result}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
