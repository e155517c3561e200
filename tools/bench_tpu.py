"""Speed of the TPU kernel against JAX's splash attention: `bazel run //tools:bench_tpu`.

On a TPU it measures: the median of repeats after a warm-up. Anywhere else it compiles for the chip with libtpu and
prints what the compiler's static schedule comes to, which is an estimate and says so in its first line.
"""

import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags

_CHIP = flags.DEFINE_enum(
    "chip", "v6e", ["v5e", "v6e", "v5p", "tpu7x"], "chip to estimate for, without a TPU"
)
_WORKLOAD = flags.DEFINE_multi_enum(
    "workload", ["W"], ["W", "S2", "P", "G", "W-smollm2"], "workloads; may be repeated"
)
_JSON = flags.DEFINE_string("json", None, "file to write the rows to, as JSON")
_REPEATS = flags.DEFINE_integer("repeats", 10, "calls that are measured, on a TPU", lower_bound=1)
_REGIONS = flags.DEFINE_bool("regions", True, "print the regions of our kernel, without a TPU")

Row = dict[str, Any]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    rows = list(measure() if _on_tpu() else estimate())
    print_table(rows)
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1) + "\n")


def _on_tpu() -> bool:
    # Asking jax would start its CPU back end before libtpu's environment is set.
    return any(pathlib.Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))


def estimate() -> Iterator[Row]:
    chip = _CHIP.value
    print(
        f"Compiler estimate for {chip}, not a measurement: no TPU is attached. One core, one layer.",
        flush=True,
    )
    from isoprefill_pallas import tpu_compiler

    with tempfile.TemporaryDirectory() as dump:
        try:
            tpu_compiler.prepare_process(chip, dump)
        except ModuleNotFoundError:
            raise app.UsageError("the estimate needs libtpu: pip install libtpu") from None
        from isoprefill_pallas import estimate as estimates
        from isoprefill_pallas.block_sizes import choose_block_sizes
        from isoprefill_pallas.workloads import WORKLOADS

        for name in _WORKLOAD.value:
            workload = WORKLOADS[name]
            rows = sum(workload.prefix_lens) + sum(map(sum, workload.item_lens))
            sizes = choose_block_sizes(
                chip,
                head_dim=workload.head_dim,
                dtype=workload.dtype,
                groups=workload.groups,
                rows=rows,
                columns=rows,
            )
            print(f"{name}: {sizes}", flush=True)
            for label, online in (("isoprefill", False), ("isoprefill running maximum", True)):
                cost = estimates.estimate_kernel(chip, workload, sizes, dump, online=online)
                if _REGIONS.value:
                    print_regions(f"{name}, {label}", cost, workload.kv_heads)
                yield _row(name, chip, label, cost)
            for blocks in estimates.SPLASH_BLOCKS:
                label = "splash " + "/".join(map(str, blocks))
                try:
                    cost = estimates.estimate_splash(chip, workload, blocks, dump)
                except Exception as error:  # sizes that do not compile are part of the answer
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    yield _row(name, chip, label, None) | {"error": reason[:200]}
                else:
                    yield _row(name, chip, label, cost)


def _row(workload: str, chip: str, implementation: str, cost: Any) -> Row:
    from isoprefill_pallas.chips import CHIPS

    known = cost is not None
    return {
        "workload": workload,
        "chip": chip,
        "implementation": implementation,
        "static_cycles": cost.static_cycles if known else None,
        "seconds": cost.seconds(CHIPS[chip]) if known else None,
        "useful_share": cost.useful_share if known else None,
        "hbm_bytes": cost.hbm_bytes + cost.outside_bytes if known else None,
        "source": "compiler-estimate",
    }


def print_regions(title: str, cost: Any, heads: int) -> None:
    print(f"\n{title}: where the {cost.static_cycles:,} cycles go")
    total = cost.static_cycles
    for region, at in cost.regions.items():
        busy = sorted(at.utilisation.items(), key=lambda item: -item[1])[:4]
        units = ", ".join(f"{unit} {share:.2f}" for unit, share in busy)
        share = heads * at.bundles * at.times / total
        print(f"  {region:14} {at.bundles:7,} bundles x {at.times:4} = {share:6.1%}   {units}")
    print(
        f"  {'around a step':14} {cost.overhead:7,} bundles x {cost.steps:4} = "
        f"{heads * cost.overhead * cost.steps / total:6.1%}\n",
        flush=True,
    )


def print_table(rows: list[Row]) -> None:
    print(
        f"{'workload':10} {'implementation':28} {'cycles':>12} {'vs best splash':>14} {'ms':>8} "
        f"{'useful':>7} {'HBM MB':>8}"
    )
    for row in rows:
        head = f"{row['workload']:10} {row['implementation']:28}"
        if row.get("error"):
            print(f"{head} does not compile: {row['error'][:70]}")
            continue
        basis = "static_cycles" if row["static_cycles"] is not None else "seconds"
        splash = [
            other[basis]
            for other in rows
            if other["workload"] == row["workload"]
            and other["implementation"].startswith("splash")
            and other[basis] is not None
        ]
        ratio = f"{row[basis] / min(splash):.3f}" if splash else ""
        cycles = f"{row['static_cycles']:,}" if row["static_cycles"] is not None else ""
        share = f"{row['useful_share']:.3f}" if row["useful_share"] is not None else ""
        moved = f"{row['hbm_bytes'] / 1e6:.0f}" if row["hbm_bytes"] is not None else ""
        print(f"{head} {cycles:>12} {ratio:>14} {row['seconds'] * 1e3:8.3f} {share:>7} {moved:>8}")


def measure() -> Iterator[Row]:
    import jax

    from isoprefill_pallas.chips import chip_of

    kind = jax.devices()[0].device_kind
    chip = chip_of(kind)
    print(f"Measured on one {kind}: median of {_REPEATS.value} calls after a warm-up.", flush=True)
    from isoprefill_pallas.workloads import WORKLOADS

    for name in _WORKLOAD.value:
        for label, call in _calls(WORKLOADS[name], chip.name if chip else None):
            try:
                seconds = _median_seconds(call)
            except Exception as error:
                yield {**_empty(name, kind, label), "error": str(error).splitlines()[0][:200]}
            else:
                yield {**_empty(name, kind, label), "seconds": seconds}


def _empty(workload: str, chip: str, implementation: str) -> Row:
    return {
        "workload": workload,
        "chip": chip,
        "implementation": implementation,
        "static_cycles": None,
        "seconds": None,
        "useful_share": None,
        "hbm_bytes": None,
        "source": "measured",
    }


def _calls(workload: Any, chip: str | None) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is measured on a workload: (label, a call that returns its result)."""
    import jax
    import jax.numpy as jnp

    from isoprefill_pallas.block_sizes import choose_block_sizes
    from isoprefill_pallas.estimate import SPLASH_BLOCKS, layout_of, splash_attention
    from isoprefill_pallas.op import pallas_attention
    from isoprefill_pallas.schedule import KernelSchedule

    layout = layout_of(workload)
    rows, dim = layout.num_rows, workload.head_dim
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (rows, workload.query_heads, dim), jnp.dtype(workload.dtype))
    k, v = (
        jax.random.normal(key, (rows, workload.kv_heads, dim), jnp.dtype(workload.dtype))
        for key in keys[1:]
    )
    sizes = choose_block_sizes(
        chip, head_dim=dim, dtype=workload.dtype, groups=workload.groups, rows=rows, columns=rows
    )
    schedule = KernelSchedule.build(layout, sizes)
    ours = jax.jit(lambda *arrays: pallas_attention(*arrays, schedule, scale=dim**-0.5))
    yield "isoprefill", lambda: ours(q, k, v)
    for blocks in SPLASH_BLOCKS:
        attend, padded = splash_attention(workload, blocks)
        pad = ((0, padded - rows), (0, 0), (0, 0))

        def theirs(q: Any, k: Any, v: Any, attend: Any = attend, pad: Any = pad) -> Any:
            heads_first = (jnp.pad(x, pad).swapaxes(0, 1) for x in (q * dim**-0.5, k, v))
            return attend(*heads_first).swapaxes(0, 1)

        call = jax.jit(theirs)
        yield "splash " + "/".join(map(str, blocks)), lambda call=call: call(q, k, v)


def _median_seconds(call: Callable[[], Any]) -> float:
    import jax

    jax.block_until_ready(call())
    times = []
    for _ in range(_REPEATS.value):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    app.run(main)
