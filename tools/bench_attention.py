"""Times the attention back ends on packs of one prefix and many items: `bazel run //tools:bench_attention`.

One attention call (one layer) with SmolLM2's heads, or with those of --heads. In each repeat all back ends run one
after another; a row shows the median. A useful pair is a row and a column that it sees. Memory is what the compiled
program needs beside its inputs and output. It does not include the half megabyte that the C++ of `cpu` takes for each
thread.
"""

import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import callers_directory
from bench_cpu.workloads import WORKLOADS
from benchmark import alternating_seconds, write_json
from isoprefill import PackedLayout, multi_item_attention
from isoprefill.attention.padding import bucket_size
from isoprefill_pallas.heads import AttentionHeads

MAX_DENSE_ROWS = 4096  # beyond, the dense back end's scores take over 600 MB a call

_WORKLOAD = flags.DEFINE_multi_enum(
    "workload", list(WORKLOADS), list(WORKLOADS), "Packs to measure; may be repeated."
)
_HEADS = flags.DEFINE_string("heads", "9,3,64", "Query heads, KV heads and head_dim.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of q, k and v.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 5, "Measured calls of each back end; the median counts.", lower_bound=1
)
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file, as JSON.")


def parse_heads(text: str, dtype: str) -> AttentionHeads:
    try:
        query_heads, kv_heads, head_dim = map(int, text.split(","))
        return AttentionHeads(query_heads, kv_heads, head_dim, dtype)
    except ValueError as error:
        raise app.UsageError(
            "--heads must be three integers, query heads, KV heads and head_dim, such as 9,3,64, "
            f"got {text!r}: {error}"
        ) from error


def measure(workload: str, heads: AttentionHeads, repeats: int) -> list[dict[str, Any]]:
    """Returns a row for each back end that can compute the workload."""
    pack = WORKLOADS[workload]
    rows = pack.query_len + sum(pack.item_lens)
    layout = PackedLayout.from_lengths(
        pack.query_len, pack.item_lens, pad_to=bucket_size(rows)
    ).with_schedule("xla")
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(
            rng.standard_normal((layout.num_rows, count, heads.head_dim), np.float32), heads.dtype
        )
        for count in (heads.query_heads, heads.kv_heads, heads.kv_heads)
    )
    calls, memory = {}, {}
    backends = ["cpu"] if jax.default_backend() == "cpu" else []
    backends += ["xla", "dense"] if layout.num_rows <= MAX_DENSE_ROWS else ["xla"]
    for backend in backends:
        attend = jax.jit(functools.partial(multi_item_attention, backend=backend))
        compiled = attend.lower(q, k, v, layout).compile()
        memory[backend] = compiled.memory_analysis().temp_size_in_bytes
        calls[backend] = lambda compiled=compiled: jax.block_until_ready(compiled(q, k, v, layout))
    flop = 4 * heads.head_dim * heads.query_heads * pack.pairs
    return [
        {
            "workload": workload,
            "implementation": backend,
            "rows": rows,
            "useful_pairs": pack.pairs,
            "seconds": (seconds := statistics.median(times)),
            "useful_gflop_per_s": flop / seconds / 1e9,
            "temporary_mb": memory[backend] / 2**20,
        }
        for backend, times in alternating_seconds(calls, repeats).items()
    ]


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    heads = parse_heads(_HEADS.value, _DTYPE.value)
    print(
        f"{jax.devices()[0].device_kind}, {_DTYPE.value}, heads {_HEADS.value}, {_REPEATS.value} repeats"
    )
    print(f"{'workload':10}{'back end':10}{'rows':>8}{'ms':>10}{'GFLOP/s':>10}{'temporary MB':>14}")
    rows = []
    for workload in _WORKLOAD.value:
        for row in measure(workload, heads, _REPEATS.value):
            rows.append(row)
            print(
                f"{row['workload']:10}{row['implementation']:10}{row['rows']:8}{1e3 * row['seconds']:10.1f}"
                f"{row['useful_gflop_per_s']:10.1f}{row['temporary_mb']:14.1f}",
                flush=True,
            )
    by_name = {(row["workload"], row["implementation"]): row for row in rows}
    for workload, backend in by_name:
        if backend != "dense" and (workload, "dense") in by_name:
            ratio = by_name[workload, "dense"]["seconds"] / by_name[workload, backend]["seconds"]
            print(f"{workload}: dense takes {ratio:.2f} times as long as {backend}")
    for backend, what, field in (
        ("cpu", "time", "seconds"),
        ("xla", "time", "seconds"),
        ("xla", "temporary memory", "temporary_mb"),
    ):
        if {("W", backend), ("G", backend)} <= by_name.keys():
            g, w = by_name["G", backend], by_name["W", backend]
            ratio = g[field] / g["useful_pairs"] / (w[field] / w["useful_pairs"])
            print(f"{backend}, G / W per useful pair: {what} {ratio:.2f}")
    write_json(_JSON.value, rows)


if __name__ == "__main__":
    app.run(main)
