"""What bench_cpu makes of measurements: whom a row is compared with, and which instructions a process may use.

If one of these fails, a published ratio may compare work with no work, or AMX with AVX2.
"""

import dataclasses
import os
import pathlib
import platform
import subprocess
import sys

import gguf
import numpy as np
import pytest

import small_models
from bench_cpu import comparison, gguf_copy
from bench_cpu.instructions import INSTRUCTIONS, environment
from bench_cpu.measurement import Measured, MeasurementError, Task
from bench_cpu.ours import Ours
from bench_cpu.rows import row_of, with_ratios
from bench_cpu.weights_read import WeightsRead
from bench_cpu.workloads import WORKLOADS, RandomRequest, all_weights
from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.config.config import ModelConfig

MODEL = ModelConfig("llama", 100, 8, 24, 2, 4, 2, 2, 1e-5, 1e4, 64)


def measured(seconds, *, kind="labels", num_items=1) -> Measured:
    return Measured("tiny", kind, num_items, seconds, 10.0, 1.0, 4.0, 800, [0.0] * num_items)


def row(name, items_per_s, *, kind="labels", **fields):
    return {
        "implementation": f"{name}/{kind}",
        "dtype": "float32",
        "items_per_s": items_per_s,
        **fields,
    }


def test_percentiles_are_of_all_rounds_and_scaled_to_the_items_of_the_first():
    rounds = [measured([0.2, 0.4], num_items=2), measured([0.3, 0.4], num_items=1)]
    made = row_of(("ours-packed", "float32"), rounds, None)
    assert made["p50_ms"] == pytest.approx(500.0)  # items take 0.1, 0.2, 0.3 and 0.4 s
    assert made["p95_ms"] == pytest.approx(2e3 * np.percentile([0.1, 0.2, 0.3, 0.4], 95))
    assert made["items_per_s"] == pytest.approx(4.0)
    assert made["gemm_share"] == pytest.approx(0.5)


def test_fresh_work_is_not_compared_with_a_warm_query():
    rows = [
        row("ours-packed", 6.0),
        row("ours-warm_query", 12.0),
        row("torch-dense", 3.0),
        row("torch-warm_query", 4.0),
        row("llamacpp", 30.0),
        row("torch-compiled", None, error="failed"),
        row("torch-dense", 100.0, kind="likelihoods"),
        row("torch-dense", 100.0, instructions="avx2"),
        row("torch-dense", 100.0) | {"dtype": "bfloat16"},
    ]
    ratios = [one["ratio_to_best_peer"] for one in with_ratios(rows)]
    assert ratios == [2.0, 3.0, 1.0, 1.0, 10.0, None, 1.0, 1.0, 1.0]


def test_the_work_of_a_warm_query_is_the_rest_of_the_work():
    request = RandomRequest("", 5, (2, 3))
    query = RandomRequest("", 5, ())
    whole, warm = (request.gflop(MODEL, "labels", warm=warm) for warm in (False, True))
    assert whole - warm == pytest.approx(query.gflop(MODEL, "labels"))
    assert all_weights(MODEL) == 2 * 8 * (8 + 4 + 4 + 8 + 3 * 24) + 8 * 100


def test_processes_alternate_and_one_that_fails_does_not_stop_the_others(monkeypatch):
    calls = []

    def measure(task):
        calls.append((task.implementation, task.dtype))
        if task.implementation == "torch-flex":
            raise MeasurementError("no memory")
        return [measured([1.0] * task.requests)]

    monkeypatch.setattr(comparison, "measure_apart", measure)
    monkeypatch.setattr(
        comparison, "read_weights", lambda size, clock: WeightsRead(size, 0.5 / len(calls))
    )
    who = [(name, "bfloat16") for name in ("ours-packed", "torch-flex", "torch-dense")]
    task = Task(*who[0], "", [WORKLOADS["tiny"]], ["labels"], 1, 1, requests=3, instructions="avx2")
    ours, flex, dense = comparison.compare(task, who, rounds=2)
    assert calls == [*who, who[2], who[0], comparison.REFERENCE]
    assert flex["error"] == "failed: no memory"
    for one in (ours, dense):
        assert one["instructions"] == "avx2"
        assert one["ratio_to_weights_read"] == pytest.approx(10.0)  # the faster reading: 0.1 s


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86")
@pytest.mark.parametrize(
    ("highest", "aten", "mkl"),
    [("avx2", "AVX2", "AVX2) enabled"), ("portable", "DEFAULT", "SSE4.2")],
)
def test_pytorch_keeps_to_the_instructions(highest, aten, mkl):
    """A library ignores a name that it does not know. PyTorch's oneDNN cannot be asked what it uses."""
    program = (
        "import torch; torch.ones(64, 64) @ torch.ones(64, 64)\n"
        "print('aten', torch.backends.cpu.get_cpu_capability())"
    )
    env = os.environ | environment(highest) | {"MKL_VERBOSE": "1"}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert f"aten {aten}" in done.stdout.splitlines(), done.stderr
    if "GenuineIntel" in pathlib.Path("/proc/cpuinfo").read_text():
        assert mkl in done.stdout


def test_instructions_restrict_ours_and_every_library_of_the_peer():
    assert environment(None) == {}
    names = {frozenset(environment(highest)) for highest in INSTRUCTIONS}
    assert len(names) == 1
    for highest in INSTRUCTIONS:
        assert environment(highest)["ISOPREFILL_INSTRUCTIONS"] == highest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_copy_for_llamacpp_has_the_same_weights_and_metadata(dtype, tmp_path):
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    source = save_gguf(small_models.random_model("llama"), tmp_path / "source.gguf", q8_0)
    gguf_copy.copy(str(source), str(tmp_path / "copy.gguf"), dtype)
    before, after = (gguf.GGUFReader(tmp_path / name) for name in ("source.gguf", "copy.gguf"))
    for name, field in before.fields.items():
        if not name.startswith("GGUF."):
            assert after.fields[name].contents() == field.contents(), name
    copies = {tensor.name: tensor for tensor in after.tensors}
    assert [tensor.name for tensor in before.tensors] == list(copies)
    for tensor in before.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        copied = copies[tensor.name]
        kind = gguf_copy.TYPES[dtype] if expected.ndim > 1 else gguf_copy.TYPES["float32"]
        assert copied.tensor_type == kind
        values = gguf.quants.dequantize(copied.data, kind)
        np.testing.assert_allclose(values, expected, rtol=0 if dtype == "float32" else 2**-8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_items_of_vectors_score_as_their_tokens(dtype, tmp_path):
    """The workload E measures the same work as its peers' tokens, over a query that is kept."""
    directory = save_directory(small_models.random_model("llama"), tmp_path)
    ours = Ours("packed_extend", dtype, str(directory), warm=True)
    request = dataclasses.replace(WORKLOADS["E"], query_len=40, item_lens=(1,) * 5)
    query, items = request.tokens(small_models.VOCAB_SIZE)
    vectors = ours.as_vectors(items)
    assert all(one.shape == (1, 64) and one.dtype == np.float32 for one in vectors)
    found, expected = (ours.score(query, one, "labels") for one in (vectors, items))
    np.testing.assert_array_equal(found, expected)
