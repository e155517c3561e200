"""The kernel, and whole scoring steps with it, compile for every TPU generation with the TPU's own compiler.

The interpreter accepts code that no TPU runs: products that are rounded, slices that are not aligned, tiles that do
not fit. libtpu's compiler does not, and runs without a TPU.
"""

import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest

import compile_cases
import compile_models
import pairwise
from isoprefill_pallas import Heads, KernelSchedule, build_layout
from isoprefill_pallas.chips import CHIPS
from isoprefill_tpu_lab.chips import FIGURES, SMEM_BYTES

pytest.importorskip("libtpu", reason="libtpu is not installed: //tests:tpu_compile installs it")

FULL = pairwise.FULL in os.environ  # //tests:full_tpu_compile
MODELS = tuple(compile_models.SMALL)
DTYPES = ("float32", "bfloat16")
# More rows take longer to compile: 32 s of a core for 256 of the larger model in float32, 83 s for 1024.
ROWS = 4096 if FULL else 256
WINDOWS = "alternating-windows"
if FULL:  # of other families too: compiling for a TPU takes each of them minutes
    STEPS = pairwise.cases(
        {"chip": list(CHIPS), "model": list(MODELS), "dtype": DTYPES, "rows": [ROWS]}
    ) + [
        {"chip": "v6e", "model": model, "dtype": "bfloat16", "rows": 1024}
        for model in compile_models.PUBLISHED
    ]
else:  # every chip, every model, both dtypes; qwen3-0.6b in float32 takes a minute and a half
    STEPS = [
        {"chip": chip, "model": model, "dtype": dtype, "rows": ROWS}
        for chip, model, dtype in (
            ("v5e", "qwen3-0.6b", "bfloat16"),
            ("v6e", "smollm2-135m", "float32"),
            ("v6e", WINDOWS, "bfloat16"),
            ("v5p", "smollm2-135m", "bfloat16"),
            ("tpu7x", "qwen3-0.6b", "bfloat16"),
        )
    ]
# Packs of 8192 rows, whose blocks are of full size: every head_dim, every dtype on two chips, tuned sizes and others.
KERNELS = [
    {"chip": "v5e", "groups": 4, "head_dim": 256, "dtype": "bfloat16", "prefixes": "short"},
    {"chip": "v6e", "groups": 2, "head_dim": 256, "dtype": "float32", "prefixes": "long"},
    {"chip": "v5p", "groups": 1, "head_dim": 128, "dtype": "float32", "prefixes": "long"},
    {"chip": "tpu7x", "groups": 2, "head_dim": 128, "dtype": "bfloat16", "prefixes": "short"},
]
PAGED = [
    {"chip": "v5e", "groups": 3, "head_dim": 64, "dtype": "bfloat16", "page_size": 16},
    {"chip": "v6e", "groups": 1, "head_dim": 64, "dtype": "float32", "page_size": 128},
    {"chip": "v5p", "groups": 2, "head_dim": 64, "dtype": "bfloat16", "page_size": 256},
    {"chip": "tpu7x", "groups": 1, "head_dim": 128, "dtype": "float32", "page_size": 1},
]
if FULL:
    shapes = {
        "chip": list(CHIPS),
        "groups": [1, 2, 3, 4, 8, 16],
        "head_dim": [64, 128, 256],
        "dtype": DTYPES,
    }
    KERNELS = pairwise.cases({**shapes, "prefixes": ["long", "short"]})
    PAGED = pairwise.cases(
        {**shapes, "groups": [1, 4], "head_dim": [64, 128], "page_size": [1, 16, 128, 256]}
    )
LONG = {"kind": "long", "chip": "v6e", "groups": 1, "head_dim": 128, "dtype": "bfloat16"}
IN_ONE_CALL = LONG | {"smem_words": 1 << 30}
CASES = [
    *({"kind": "kernel", **case} for case in KERNELS),
    *({"kind": "paged", **case} for case in PAGED),
    *({"kind": "step", **case} for case in STEPS),
    LONG,
]
CONTROLS = [
    {"kind": kind, "chip": chip}
    for kind, chip in itertools.product(("unaligned", "too large", "default precision"), CHIPS)
] + [IN_ONE_CALL]


@functools.cache
def results(chip):
    """What became of each case of a chip, compiled in a process of its own: {case as JSON: result}."""
    cases = [case for case in CASES + CONTROLS if case["chip"] == chip]
    done = subprocess.run(
        [sys.executable, pathlib.Path(compile_cases.__file__), chip, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(cases), done.stderr[-3000:]
    return {json.dumps(line["case"]): line for line in lines}


def result_of(case):
    return results(case["chip"])[json.dumps(case)]


def compiled(case):
    result = result_of(case)
    assert "error" not in result, result
    return result


def name_of(case):
    return "-".join(map(str, case.values()))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_compiles_within_the_memory_of_the_chip(case):
    """Fails if it cannot be lowered, is misaligned, or exceeds VMEM, SMEM or HBM."""
    result, chip = compiled(case), case["chip"]
    by_kernel = result.get("attention", "pallas") == "pallas"
    assert by_kernel == (result["smem_bytes"] > 0)
    assert result["smem_bytes"] < SMEM_BYTES
    assert result["hbm_bytes"] < FIGURES[chip].hbm_bytes
    # Where the compiler's own figure is not to be had, that it compiles is what says that VMEM is enough.
    if result["vmem_bytes"] is not None:
        assert 0 < result["vmem_bytes"] <= CHIPS[chip].vmem_limit_bytes
    if case["kind"] != "step":
        assert result["temporary_bytes"] < result["scores_bytes"] / 4, "no array of T x S"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_every_float32_product_is_in_full_precision(case):
    """The matrix unit multiplies float32 in bfloat16 unless told otherwise; the interpreter never does."""
    result = compiled(case)
    products = result["products"]
    places = {where for where, _, _ in products}
    assert ("kernel" in places) == (result.get("attention", "pallas") == "pallas")
    assert ("program" in places) == (case["kind"] == "step")
    assert not inexact(products)
    if case["dtype"] == "float32":
        assert {dtype for _, dtype, _ in products} == {"f32"}


def inexact(products):
    """Products of float32 that are not in full precision."""
    exact = {"kernel": "fp32", "program": "HIGHEST HIGHEST"}
    return [
        (where, dtype, precision)
        for where, dtype, precision in products
        if dtype == "f32" and precision != exact[where]
    ]


@pytest.mark.parametrize("chip", CHIPS)
def test_products_at_the_default_precision_are_found(chip):
    """The negative control: one such product in a kernel, one outside."""
    products = compiled({"kind": "default precision", "chip": chip})["products"]
    assert [where for where, _, _ in inexact(products)] == ["kernel", "program"]


@pytest.mark.parametrize("chip", CHIPS)
def test_a_kernel_that_cannot_be_lowered_fails(chip):
    """The negative control: were errors swallowed, everything above would pass."""
    assert "multiple" in result_of({"kind": "unaligned", "chip": chip}).get("error", "")


@pytest.mark.parametrize("chip", CHIPS)
def test_a_kernel_that_needs_too_much_vmem_fails(chip):
    assert "vmem" in result_of({"kind": "too large", "chip": chip}).get("error", "").lower()


def test_schedules_larger_than_scalar_memory_are_split():
    """128k rows of 20-token items in the smallest tiles: too many scalars for one call, and so there are more."""
    assert compiled(LONG)["parts"] > 1
    assert "smem" in result_of(IN_ONE_CALL).get("error", "").lower()


@pytest.mark.parametrize("chip", CHIPS)
def test_128k_rows_fit_into_scalar_memory_in_one_call_with_the_chosen_sizes(chip):
    layout = build_layout(prefix_lens=[2000], item_lens=[[20] * 6453], pad_to=131072)
    for groups, head_dim, dtype in ((2, 128, "bfloat16"), (3, 64, "float32"), (16, 256, "float32")):
        heads = Heads(2 * groups, 2, head_dim, dtype)
        (part,) = KernelSchedule.of(layout, heads, chip=chip).parts
        assert 4 * (part.steps.size + part.units.size + part.tiles.size) < SMEM_BYTES
