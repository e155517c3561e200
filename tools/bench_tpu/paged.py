"""Counts the attention of a layer as the link to sglang-jax computes it: over a paged cache, which it writes first."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench_tpu import step
from bench_tpu.one_more_run import count_one_more
from bench_tpu.rows import ESTIMATE
from isoprefill.attention.padding import bucket_size
from isoprefill_csrc import build_layout
from isoprefill_pallas.padding import next_power_of_two
from isoprefill_pallas.paged import packing_of, paged_attention, write_columns
from isoprefill_pallas.schedule import KernelSchedule
from isoprefill_tpu_lab import tpu_compiler
from isoprefill_tpu_lab.packs import Pack
from isoprefill_tpu_lab.step_cost import InstructionCost

CACHED_PAGES = 2  # times the pages of the pack: those of other requests


def estimate_paged(pack: Pack, page_size: int, chip: str, dump: str) -> list[InstructionCost]:
    """Compiles the attention of a layer for a chip and counts it: {what the cache gets, gathering it, the kernel}.

    Raises:
        JaxRuntimeError: it does not compile.
    """
    rows = bucket_size(pack.layout.num_rows)
    pages = next_power_of_two(-(-pack.layout.num_columns // page_size))
    padded = build_layout(
        prefix_lens=pack.prefix_lens, item_lens=pack.item_lens, pad_to=rows
    ).row_intervals
    schedule = KernelSchedule.of_intervals(padded, pages * page_size, pack.heads, chip=chip)
    packing, dtype = packing_of(pack.dtype), jnp.dtype(pack.dtype)

    def shape(*sizes: int, of: Any = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, of)

    cache = shape(
        CACHED_PAGES * pages, page_size, 2 * pack.kv_heads // packing, packing, pack.head_dim
    )
    table = shape(pages, of=jnp.int32)

    def run(times: Any, q: Any, kv: Any, cache: Any, slots: Any, *tables: Any) -> Any:
        """As layers follow one another: the cache is written in place, and each output is the next queries."""

        def layer(_: Any, carried: tuple[Any, Any]) -> tuple[Any, Any]:
            q, cache = carried
            keys = kv.reshape(rows, pack.kv_heads, pack.head_dim)
            cache = write_columns(cache, keys, keys, slots)
            heads = q.reshape(rows, pack.query_heads, pack.head_dim)
            out, _ = paged_attention(heads, cache, *tables, scale=pack.head_dim**-0.5)
            return out.reshape(q.shape), cache

        return lax.fori_loop(0, times, layer, (q, cache))

    step.clear(dump)
    with step.for_chip(chip):
        tpu_compiler.compile_for(
            chip,
            run,
            np.int32(1),
            shape(rows, pack.query_heads * pack.head_dim),
            shape(rows, pack.kv_heads * pack.head_dim),
            cache,
            shape(rows, of=jnp.int32),
            table,
            table,
            schedule,
        )
    kernels = {"isoprefill_anchored": step.attention_cost(pack, schedule.sizes, chip, dump)}
    costs = count_one_more(chip, dump, kernels)
    step.clear(dump)
    return costs


def print_paged(
    name: str, page_size: int, chip: str, costs: list[InstructionCost]
) -> dict[str, Any]:
    """Prints what a layer takes, and returns the row of the JSON file."""
    total = sum(cost.seconds for cost in costs)
    kernel = sum(cost.seconds for cost in costs if cost.name.startswith("isoprefill_"))
    moved = sum(cost.hbm_bytes for cost in costs)
    print(
        f"\n{name}, pages of {page_size}, {chip}: {total * 1e3:.3f} ms a layer, of which the kernel "
        f"{kernel * 1e3:.3f}; {moved / 1e6:,.0f} MB"
    )
    for cost in sorted(costs, key=lambda cost: -cost.seconds)[:8]:
        print(f"  {cost.seconds * 1e3:8.3f} {cost.name} ({cost.part}) {cost.shapes}", flush=True)
    return {
        "workload": name,
        "page_size": page_size,
        "chip": chip,
        "source": ESTIMATE,
        "seconds": total,
        "kernel_seconds": kernel,
        "hbm_bytes": moved,
    }
