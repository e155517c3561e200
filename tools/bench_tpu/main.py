"""Compares the TPU kernel with JAX's splash attention and a dense mask: `bazel run //tools:bench_tpu`.

On a TPU it measures the median of several calls after a warm-up. With CUDA it measures the xla back end. Anywhere else
it compiles for the chip with libtpu and prints the cycles of the compiler's static schedule, which is an estimate, as
its first line says. The dense mask is XLA's, estimated by the operations and bytes that its compiler counts.
"""

import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import app, flags

import callers_directory
from benchmark import write_json
from isoprefill_tpu_lab.chips import FIGURES
from isoprefill_tpu_lab.packs import PACKS

_CHIP = flags.DEFINE_enum("chip", "v6e", list(FIGURES), "Chip to estimate for, without a TPU.")
_WORKLOAD = flags.DEFINE_multi_enum(
    "workload", list(PACKS), list(PACKS), "Packs to measure; may be repeated."
)
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file, as JSON.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 10, "Measured calls of each implementation, on a device.", lower_bound=1
)
_REGIONS = flags.DEFINE_bool("regions", True, "Print the regions of our kernel, without a TPU.")

Row = dict[str, Any]


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    if _has_accelerator():
        from bench_tpu import measurement

        rows = list(measurement.measure(_WORKLOAD.value, _REPEATS.value))
    else:
        rows = list(estimate())
    print_table(rows)
    fields = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
    write_json(_JSON.value, fields)


def _has_accelerator() -> bool:
    # Asking jax would start its CPU back end before libtpu's environment is set.
    if any(pathlib.Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0")):
        return True
    if not pathlib.Path("/dev/nvidia0").exists():
        return False
    import jax

    return jax.default_backend() == "gpu"


def estimate() -> Iterator[Row]:
    chip = _CHIP.value
    print(
        f"Compiler estimate for {chip}, not a measurement: no TPU is attached. One core, one layer.",
        flush=True,
    )
    from isoprefill_tpu_lab import tpu_compiler

    with tempfile.TemporaryDirectory() as dump:
        try:
            tpu_compiler.prepare_process(chip, dump)
        except ModuleNotFoundError:
            raise app.UsageError("the estimate needs libtpu: pip install libtpu") from None
        for name in _WORKLOAD.value:
            yield from _estimate_workload(name, chip, dump)


def _estimate_workload(name: str, chip: str, dump: str) -> Iterator[Row]:
    from isoprefill_tpu_lab import estimate as estimates

    pack = PACKS[name]
    compute, memory = estimates.bound_seconds(chip, pack)
    print(
        f"\n{name}: no kernel takes less than {max(compute, memory) * 1e3:.3f} ms on {chip}: useful products at "
        f"peak take {compute * 1e3:.3f} ms, reading q, k, v and writing the output once {memory * 1e3:.3f} ms"
    )
    sizes = estimates.sizes_of(chip, pack)
    print(f"{name}: {sizes}", flush=True)
    bound = max(compute, memory)
    for label, online in (("isoprefill", False), ("isoprefill running maximum", True)):
        cost = estimates.estimate_kernel(chip, pack, sizes, dump, online=online)
        if _REGIONS.value:
            print_regions(f"{name}, {label}", cost, pack.kv_heads)
        yield _row(name, chip, label, cost, bound)
    for blocks in estimates.SPLASH_BLOCKS:
        label = "splash " + "/".join(map(str, blocks))
        try:
            cost = estimates.estimate_splash(chip, pack, blocks, dump)
        except Exception as error:  # sizes that do not compile are part of the answer
            yield _row(name, chip, label, None, bound) | {"error": _reason(error)}
        else:
            yield _row(name, chip, label, cost, bound)
    row = _row(name, chip, "dense mask", None, bound)
    try:
        seconds, useful_share, hbm_bytes = estimates.estimate_dense(chip, pack)
    except Exception as error:  # T x S scores may exceed the chip's memory
        yield row | {"error": _reason(error)}
    else:
        yield row | {"seconds": seconds, "useful_share": useful_share, "hbm_bytes": hbm_bytes}


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _row(workload: str, chip: str, implementation: str, cost: Any, bound: float) -> Row:
    """Returns a row of the JSON file; keys that begin with _ are for the table only."""
    known = cost is not None
    return {
        "workload": workload,
        "chip": chip,
        "implementation": implementation,
        "static_cycles": cost.static_cycles if known else None,
        "seconds": cost.seconds(FIGURES[chip]) if known else None,
        "useful_share": cost.useful_share if known else None,
        "hbm_bytes": cost.hbm_bytes + cost.outside_bytes if known else None,
        "source": "compiler-estimate",
        "_bound": bound,
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
        f"{'of bound':>8} {'useful':>7} {'HBM MB':>8}"
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
        reached = f"{row['_bound'] / row['seconds']:.3f}" if row.get("_bound") else ""
        print(
            f"{head} {cycles:>12} {ratio:>14} {row['seconds'] * 1e3:8.3f} {reached:>8} {share:>7} {moved:>8}"
        )


if __name__ == "__main__":
    app.run(main)
