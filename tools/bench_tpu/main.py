"""Compares the TPU kernel with JAX's splash attention and a dense mask: `bazel run //tools:bench_tpu`.

On a TPU it measures the median of several calls after a warm-up. With CUDA it measures the xla back end. Anywhere else
it compiles for the chip with libtpu and prints the cycles of the compiler's static schedule, which is an estimate, as
its first line says. The dense mask is XLA's, estimated by the operations and bytes that its compiler counts.

--step counts whole scoring steps instead, of every model, workload and read-out that is asked for; one takes a minute
or more to compile. --measure measures whatever device is there, also a CPU, whose times say nothing of a TPU: a
rehearsal, with --tiny in half a minute.
"""

import itertools
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, get_args

import jax
from absl import app, flags

import callers_directory
from bench_tpu import measurement, paged, step, step_table
from bench_tpu.models import MODELS
from bench_tpu.rows import ESTIMATE, Row, make_row, print_table
from bench_tpu.scoring_step import Readout
from benchmark import error_line, write_json
from isoprefill_pallas.paged import MAX_PAGE_SIZE
from isoprefill_tpu_lab import estimate, tpu_compiler
from isoprefill_tpu_lab.chips import FIGURES
from isoprefill_tpu_lab.cost_model import Cost
from isoprefill_tpu_lab.packs import PACKS

_CHIP = flags.DEFINE_enum("chip", "v6e", list(FIGURES), "Chip to estimate for, without a TPU.")
_WORKLOAD = flags.DEFINE_multi_enum(
    "workload", list(PACKS), list(PACKS), "Packs to measure; may be repeated."
)
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file, as JSON.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 10, "Measured calls of each implementation, on a device.", lower_bound=1
)
_STEP = flags.DEFINE_bool("step", False, "Count whole scoring steps, without a TPU.")
_MODEL = flags.DEFINE_multi_enum(
    "model", ["qwen3-0.6b"], list(MODELS), "Models whose steps are counted; may be repeated."
)
_READOUT = flags.DEFINE_multi_enum(
    "readout", ["labels"], list(get_args(Readout)), "What the steps read; may be repeated."
)
_TENSOR = flags.DEFINE_integer(
    "tensor", 1, "With --step: devices that share out the weights; one of them is counted."
)
_PAGED = flags.DEFINE_multi_integer(
    "paged",
    [],
    "Count a layer's attention over a cache with pages of so many tokens, as the link to sglang-jax computes it.",
)
_MEASURE = flags.DEFINE_bool("measure", False, "Measure the device that is there, also a CPU.")
_TINY = flags.DEFINE_bool("tiny", False, "With --measure: a tiny pack and model instead.")
_REGIONS = flags.DEFINE_bool("regions", True, "Print the regions of our kernel, without a TPU.")


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    check_flags(flags.FLAGS)
    if _STEP.value or _PAGED.value:
        counted = []
        for row in (count_steps if _STEP.value else count_paged)(_CHIP.value):
            counted.append(row)
            write_json(_JSON.value, counted)  # a later step may take long, or fail
        return
    if _MEASURE.value or _has_accelerator():
        packs = [measurement.TINY] if _TINY.value else [PACKS[name] for name in _WORKLOAD.value]
        rows = list(measurement.measure(packs, _REPEATS.value))
    else:
        rows = list(estimate_all(_CHIP.value))
    print_table(rows)
    write_json(_JSON.value, rows)


def check_flags(given: flags.FlagValues) -> None:
    """Refuses flags that would be ignored, and a --json that could not be written after minutes of work.

    Raises:
        app.UsageError: naming them.
    """
    if given.step and given.measure:
        raise app.UsageError("--step is counted without a device: it does not go with --measure")
    if given.paged and (given.step or given.measure):
        raise app.UsageError("--paged is counted alone: it goes with neither --step nor --measure")
    for size in given.paged or ():
        if not 1 <= size <= MAX_PAGE_SIZE:
            raise app.UsageError(f"--paged must be from 1 to {MAX_PAGE_SIZE}, got {size}")
    if given.tiny and not given.measure:
        raise app.UsageError("--tiny goes with --measure")
    for name in ("model", "readout"):
        if given[name].present and not given.step:
            raise app.UsageError(f"--{name} goes with --step")
    if given.tensor != 1:
        if not given.step:
            raise app.UsageError("--tensor goes with --step")
        if (given.chip, given.tensor) not in step.TENSOR_TOPOLOGIES:
            known = ", ".join(f"{chip} {devices}" for chip, devices in step.TENSOR_TOPOLOGIES)
            raise app.UsageError(
                f"--chip and --tensor must be one of {known}, got {given.chip} {given.tensor}"
            )
        for name in given.model:
            if MODELS[name].num_kv_heads % given.tensor:
                raise app.UsageError(
                    f"--tensor shares out KV heads to {given.tensor} devices, of which {name} has "
                    f"{MODELS[name].num_kv_heads}"
                )
    unknown = [name for name in given.workload if name not in step.WORKLOADS]
    if given.step and given["workload"].present and unknown:
        raise app.UsageError(
            f"--step takes the workloads {', '.join(step.WORKLOADS)} with the heads of its models, got {unknown[0]}"
        )
    if given.json and not pathlib.Path(given.json).resolve().parent.is_dir():
        raise app.UsageError(f"--json is {given.json}, whose directory does not exist")


def _has_accelerator() -> bool:
    # Asking jax would start its CPU back end before libtpu's environment is set.
    if any(pathlib.Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0")):
        return True
    return pathlib.Path("/dev/nvidia0").exists() and jax.default_backend() == "gpu"


def estimate_all(chip: str) -> Iterator[Row]:
    print(
        f"Compiler estimate for {chip}, not a measurement: no TPU is attached. One core, one layer.",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as dump:
        _prepare(chip, dump)
        for name in _WORKLOAD.value:
            yield from _estimate_workload(name, chip, dump)


def _prepare(chip: str, dump: str) -> None:
    try:
        tpu_compiler.prepare_process(chip, dump)
    except ModuleNotFoundError:
        raise app.UsageError("the estimate needs libtpu: pip install libtpu") from None


def count_steps(chip: str) -> Iterator[dict[str, Any]]:
    """Yields a row for every step, and after each the published figures beside it.

    A step that does not compile for the chip has a row with the compiler's error.
    """
    devices = _TENSOR.value
    of = f"One of {devices} devices" if devices > 1 else "One device"
    print(f"Compiler estimate for {chip}, not a measurement. {of}, the whole step.", flush=True)
    with tempfile.TemporaryDirectory() as dump:
        _prepare(chip, dump)
        readout: Readout
        for model, workload, readout in itertools.product(
            _MODEL.value, _WORKLOAD.value, _READOUT.value
        ):
            if workload not in step.WORKLOADS:
                continue
            try:
                counted = step.estimate_step(model, workload, readout, chip, dump, devices)
            except jax.errors.JaxRuntimeError as error:
                row = step_table.make_error_row(model, workload, readout, chip, error)
                step_table.print_error(row)
                yield row
                continue
            row = step_table.make_row(model, workload, readout, chip, counted)
            others = step_table.published_rows(model, workload, chip)
            step_table.print_step(row, others)
            yield row
            yield from others


def count_paged(chip: str) -> Iterator[dict[str, Any]]:
    """Yields a row for every workload and page size."""
    print(f"Compiler estimate for {chip}, not a measurement. One device, one layer.", flush=True)
    with tempfile.TemporaryDirectory() as dump:
        _prepare(chip, dump)
        for name, page_size in itertools.product(_WORKLOAD.value, _PAGED.value):
            costs = paged.estimate_paged(PACKS[name], page_size, chip, dump)
            yield paged.print_paged(name, page_size, chip, costs)


def _estimate_workload(name: str, chip: str, dump: str) -> Iterator[Row]:
    pack = PACKS[name]
    compute, memory = estimate.bound_seconds(chip, pack)
    print(
        f"\n{name}: no kernel takes less than {max(compute, memory) * 1e3:.3f} ms on {chip}: useful products at "
        f"peak take {compute * 1e3:.3f} ms, reading q, k, v and writing the output once {memory * 1e3:.3f} ms"
    )
    sizes = estimate.sizes_of(chip, pack)
    print(f"{name}: {sizes}", flush=True)

    def row(label: str, cost: Cost | None = None, **known: object) -> Row:
        if cost is not None:
            known = {
                "static_cycles": cost.static_cycles,
                "seconds": cost.seconds(FIGURES[chip]),
                "useful_share": cost.useful_share,
                "hbm_bytes": cost.hbm_bytes + cost.outside_bytes,
            }
        return make_row(name, chip, label, ESTIMATE, **known)

    for label, online in (("isoprefill", False), ("isoprefill running maximum", True)):
        cost = estimate.estimate_kernel(chip, pack, sizes, dump, online=online)
        if _REGIONS.value:
            print_regions(f"{name}, {label}", cost, pack.kv_heads)
        yield row(label, cost)
    for blocks in estimate.SPLASH_BLOCKS:
        label = "splash " + "/".join(map(str, blocks))
        try:
            yield row(label, estimate.estimate_splash(chip, pack, blocks, dump))
        except Exception as error:  # sizes that do not compile are part of the answer
            yield row(label, error=error_line(error))
    try:
        seconds, useful_share, hbm_bytes = estimate.estimate_dense(chip, pack)
        yield row("dense mask", seconds=seconds, useful_share=useful_share, hbm_bytes=hbm_bytes)
    except Exception as error:  # T x S scores may exceed the chip's memory
        yield row("dense mask", error=error_line(error))


def print_regions(title: str, cost: Cost, heads: int) -> None:
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


if __name__ == "__main__":
    app.run(main)
