"""What the tools say of a command line that they cannot take: the reason in the last line, and no traceback."""

import os
import pathlib
import subprocess
import sys

import pytest

TOOLS = pathlib.Path(__file__).parents[2] / "tools"
REFUSED = {
    "two numbers for heads": ("bench_attention", ["--heads=9,3"], "--heads must be three integers"),
    "heads that are words": ("bench_attention", ["--heads=9,3,x"], "--heads must be three integers"),
    "heads that no group shares": ("bench_attention", ["--heads=9,2,64"], "got '9,2,64'"),
    "an item that is a word": ("draw_mask", ["--items=a"], "--items must be integers of at least 1"),
    "an item of nothing": ("draw_mask", ["--items=3,0"], "of at least 1, such as 3,2,4, got '3,0'"),
    "no such directory": ("draw_mask", ["--output=/nonexistent/m.svg"], "--output: "),
    "no such model": ("causal_effect", ["--model=nope"], "smollm2-135m"),
    "no such device": ("torch_reference_server", ["--device=tpu"], "<cpu|cuda>"),
    "a delimiter for nothing": (
        "torch_reference_server", ["--delimiter-token-id=0"], "--delimiter-token-id needs --delimiter"
    ),
    "rows": ("bench_mask", ["--max-rows=1"], "--max-rows=1"),
    "no rows": ("bench_batch", ["--rows=0"], "--rows=0"),
    "no such instructions": ("bench_cpu", ["--instructions=sse9"], "portable>"),
    "no such workload": ("bench_cpu", ["--workload=huge"], "<tiny|small|page|demo|"),
    "no requests": ("bench_cpu", ["--requests=0"], "--requests=0"),
    "instructions of llama.cpp": (
        "bench_cpu", ["--implementation=llamacpp", "--instructions=avx2"], "cannot restrict llamacpp"
    ),
    "what is not quick": (
        "bench_cpu", ["--quick", "--implementation=torch-compiled"], "got torch-compiled"
    ),
    "head_dim": ("tune_tpu", ["--head-dim=x"], "--head-dim=x"),
    "a step that is measured": ("bench_tpu", ["--step", "--measure"], "does not go with --measure"),
    "a model without a step": ("bench_tpu", ["--model=qwen3-4b"], "--model goes with --step"),
    "a step of other heads": (
        "bench_tpu", ["--step", "--workload=W-smollm2"], "--step takes the workloads W, S2, P, G"
    ),
    "heads that chips cannot share": (
        "bench_tpu", ["--step", "--tensor=4", "--model=smollm2-135m"], "of which smollm2-135m has 3"
    ),
    "devices that no topology has": (
        "bench_tpu", ["--step", "--tensor=3"], "must be one of v5e 4, v5e 8, v6e 4, v6e 8, tpu7x 8, got v6e 3"
    ),
    "pages that are too large": ("bench_tpu", ["--paged=512"], "--paged must be from 1 to 256, got 512"),
    "a file nowhere": ("bench_tpu", ["--json=/nonexistent/rows.json"], "whose directory does not exist"),
} | {
    f"{tool} and a stray argument": (tool, [*required, "stray"], "unexpected arguments ['stray']")
    for tool, *required in (
        ["bench_attention"],
        ["bench_batch"],
        ["bench_cpu"],
        ["bench_labels"],
        ["bench_mask"],
        ["bench_server"],
        ["bench_tpu"],
        ["causal_effect"],
        ["check_sglang_jax", "--source=."],
        ["draw_mask"],
        ["soak"],
        ["torch_reference_server"],
        ["tune_tpu", "--output=."],
    )
}  # fmt: skip


@pytest.mark.parametrize(("tool", "arguments", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_command_line_is_refused_with_the_reason(tool, arguments, reason, tmp_path):
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": path}
    environment.pop("BUILD_WORKING_DIRECTORY", None)
    program = TOOLS / tool / "main.py" if (TOOLS / tool).is_dir() else TOOLS / f"{tool}.py"
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert any(reason in line for line in done.stderr.splitlines()[-3:]), done.stderr
    assert not list(tmp_path.iterdir())
