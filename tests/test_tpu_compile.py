"""The kernel compiles for every TPU generation with the TPU's own compiler.

The interpreter accepts code that no TPU runs: products that are rounded, slices that are not aligned, tiles that do
not fit. libtpu's compiler does not, and runs without a TPU.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys

import pytest

import compile_cases

pytest.importorskip("libtpu", reason="libtpu is not installed: //tests:tpu_compile installs it")

CHIPS = ("v5e", "v6e", "v5p", "tpu7x")
HBM_BYTES = {"v5e": 16 << 30, "v6e": 32 << 30, "v5p": 95 << 30, "tpu7x": 192 << 30}
SMEM_WORDS = 1 << 18
# Every head_dim and both dtypes on each chip, and every pair of them somewhere.
COVER = {
    "v5e": [(1, 64, "float32"), (2, 128, "bfloat16")],
    "v6e": [(2, 128, "bfloat16"), (3, 64, "bfloat16"), (2, 256, "float32")],
    "v5p": [(8, 256, "bfloat16"), (1, 128, "float32")],
    "tpu7x": [(3, 64, "float32"), (16, 128, "bfloat16")],
}
EVERYTHING = [
    (groups, head_dim, dtype)
    for groups in (1, 2, 3, 4, 8, 16)
    for head_dim in (64, 128, 256)
    for dtype in ("float32", "bfloat16")
]
FULL = "ISOPREFILL_FULL_MATRIX" in os.environ  # //tests:full_tpu_compile
CASES = {chip: EVERYTHING if FULL else COVER[chip] for chip in CHIPS}


@functools.cache
def results(chip):
    """What became of each case of a chip, compiled in a process of its own."""
    cases = [{"groups": g, "head_dim": d, "dtype": t} for g, d, t in CASES[chip]]
    cases.append({"control": True})
    done = subprocess.run(
        [sys.executable, pathlib.Path(compile_cases.__file__), chip, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(cases), done.stderr[-3000:]
    return lines


@pytest.mark.parametrize(
    ("chip", "case"), [(chip, i) for chip in CHIPS for i in range(len(CASES[chip]))], ids=str
)
def test_compiles_within_the_memory_of_the_chip(chip, case):
    """Fails if the kernel cannot be lowered, is misaligned, or exceeds VMEM, SMEM or HBM."""
    result = results(chip)[case]
    assert "error" not in result, result
    assert result["smem_words"] < SMEM_WORDS
    # Copies of the inputs in another layout, heads of 64 padded to 128 lanes; T x S scores would be 20 times as much.
    assert result["hbm_bytes"] < 12 * result["argument_bytes"]
    assert result["hbm_bytes"] < HBM_BYTES[chip]


@pytest.mark.parametrize("chip", CHIPS)
def test_every_float32_product_is_in_full_precision(chip):
    """The matrix unit multiplies float32 in bfloat16 unless told otherwise; the interpreter never does."""
    for result in results(chip)[:-1]:
        products = result["dots"]
        assert products
        for dtype, precision in products:
            assert dtype == result["case"]["dtype"]
            assert dtype != "float32" or precision.count("HIGHEST") == 2, precision


@pytest.mark.parametrize("chip", CHIPS)
def test_a_kernel_that_cannot_be_lowered_fails(chip):
    """The negative control: were errors swallowed, everything above would pass."""
    assert "multiple" in results(chip)[-1].get("error", "")
