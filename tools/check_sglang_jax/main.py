"""Checks a source tree of sglang-jax: does it have the interface that our integration expects, and does that work?

    bazel run //tools:check_sglang_jax -- --source=$HOME/sglang-jax [--python=$HOME/venv/bin/python]

It first reads the source and names each difference: a class, method or argument that is missing, or in another order.
Then, if the Python can import sglang-jax and isoprefill, it starts engines on the CPU, with and without `install()`,
and compares their answers. It does not change the tree. It exits with 1 if anything differs, and says so if it could
not start engines.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from absl import app, flags

import callers_directory
from check_sglang_jax import comparison, hf_models
from isoprefill_sglang_jax import source_interface

_SOURCE = flags.DEFINE_string(
    "source", None, "A checkout of sglang-jax, or the directory that holds sgl_jax.", required=True
)
_PYTHON = flags.DEFINE_string(
    "python",
    None,
    "The Python to read and to run with. To run, it needs sglang-jax's packages and isoprefill's wheel. Default: the "
    "first on PATH of a version that sglang-jax supports.",
)
INTERFACE = pathlib.Path(source_interface.__file__).with_name("interface.json")
# XLA's threads on a CPU, by default one for each core. A callback of the interpreter holds one while it waits for a
# copy, which needs another; two devices on two cores would wait for ever.
XLA_THREADS = "16"
ENGINE_TIMEOUT_S = 1800  # an engine whose scheduler died waits for it forever
RUN = pathlib.Path(__file__).with_name("run_engine.py")
ENGINE = {
    "device": "cpu",
    "attention_backend": "fa",
    "dtype": "float32",
    "mem_fraction_static": 0.2,
    "max_total_tokens": 8192,
    "max_running_requests": 8,
    "chunked_prefill_size": -1,
    "disable_radix_cache": True,
    "disable_precompile": True,
    "skip_server_warmup": True,
    # Its own limit, of 300 s, ends the scheduler while a slow machine compiles.
    "watchdog_timeout": ENGINE_TIMEOUT_S,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: a model of hf_models, and how it is served."""

    model: str
    page_size: int
    tensor_parallel: int
    attention: str = "xla"


CASES = (
    Case("qwen3", 1, 1),
    Case("qwen3", 16, 1),
    Case("qwen3", 1, 2),
    Case("qwen3", 16, 2),
    Case("qwen3", 16, 1, "pallas"),
    Case("qwen3", 16, 2, "pallas"),
    Case("smollm2-135m", 1, 1),  # its 9 query heads cannot be divided by 2
    Case("smollm2-135m", 16, 1),
)


def find_python(versions: list[str]) -> str:
    """Returns the first Python on PATH of one of these versions, or this one."""
    for version in versions:
        if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
            return sys.executable
        found = shutil.which(f"python{version}")
        if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
            return found
    return sys.executable


def environment(python: str, root: pathlib.Path) -> dict[str, str]:
    """Returns the environment for a Python that imports sglang-jax from `root`; only this one gets our packages."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = [str(root)]
    if python == sys.executable:
        path.append(os.environ.get("PYTHONPATH", ""))
    return inherited | {
        "PYTHONPATH": os.pathsep.join(path),
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
    }


def differences(python: str, root: pathlib.Path) -> list[str]:
    """Returns how the interface differs; to parse the source may need a newer Python than this one."""
    command = [python, source_interface.__file__, str(INTERFACE), str(root)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()


def missing(python: str, root: pathlib.Path) -> str | None:
    """Returns why this Python cannot run the link; None if it can."""
    program = "import sgl_jax.srt.entrypoints.engine; import isoprefill_sglang_jax.hooks"
    done = subprocess.run(
        [python, "-c", program], env=environment(python, root), text=True, capture_output=True
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def answers(
    python: str, root: pathlib.Path, model: pathlib.Path, case: Case, attention: str | None
) -> dict:
    """Returns what one engine answers; `attention` is install()'s argument, None runs sglang-jax as it is."""
    settings = {
        "model_path": str(model),
        "page_size": case.page_size,
        "tp_size": case.tensor_parallel,
    }
    options = {"attention": attention, "engine": ENGINE | settings}
    flag = f"--xla_force_host_platform_device_count={case.tensor_parallel}"
    with tempfile.TemporaryDirectory() as directory:
        output = pathlib.Path(directory) / "answers.json"
        log = pathlib.Path(directory) / "log.txt"
        with log.open("w") as words:
            engine = subprocess.Popen(
                [python, str(RUN), json.dumps(options), str(output)],
                env=environment(python, root) | {"XLA_FLAGS": flag, "NPROC": XLA_THREADS},
                stdout=words,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = engine.wait(ENGINE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                code = f"no answer in {ENGINE_TIMEOUT_S} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(engine.pid, signal.SIGKILL)
                engine.wait()
        if code or not output.exists():
            raise RuntimeError(f"the engine failed ({code}):\n{log.read_text()[-4000:]}")
        return json.loads(output.read_text())


def run_cases(python: str, root: pathlib.Path) -> int:
    """Runs all cases, printing one line each; returns how many failed."""
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        own = {}  # by model, page size and tensor parallelism
        for case in CASES:
            model = pathlib.Path(work) / case.model
            if not model.exists():
                hf_models.save_model(case.model, model)
            served = (case.model, case.page_size, case.tensor_parallel)
            name = (
                f"{case.model}, page size {case.page_size}, tensor parallel {case.tensor_parallel}, "
                f"{case.attention}"
            )
            try:
                if served not in own:
                    own[served] = answers(python, root, model, case, None)
                ours = answers(python, root, model, case, case.attention)
            except RuntimeError as error:
                print(f"{name}: {error}", flush=True)
                failed += 1
                continue
            result = comparison.compare(own[served], ours)
            print(
                f"{name}: scores differ by {result.difference:.1e} (causal attention: {result.contamination:.2f}), "
                f"generation by {result.generation:.0e}",
                flush=True,
            )
            for problem in result.problems:
                print(f"  PROBLEM: {problem}", flush=True)
            failed += bool(result.problems)
    print(f"end to end: {len(CASES) - failed} of {len(CASES)} cases passed")
    return failed


def check(source: pathlib.Path, python: str | None) -> int:
    """Compares and, if nothing differs, runs; prints what it finds and returns the exit code."""
    root = source / "python" if (source / "python" / "sgl_jax").is_dir() else source
    if not (root / "sgl_jax").is_dir():
        raise app.UsageError(f"--source={source} holds neither sgl_jax nor python/sgl_jax")
    expected = json.loads(INTERFACE.read_text())
    python = python or find_python(expected["python"])
    print(f"expected: the interface of sglang-jax at {expected['commit']}", flush=True)
    found = differences(python, root)
    for difference in found:
        print(f"- {difference}")
    if found:
        print(f"{len(found)} differences: install() would refuse this sglang-jax")
        return 1
    print("interface: as expected", flush=True)
    reason = missing(python, root)
    if reason is not None:
        print(f"end to end: not run, because {python} reports: {reason}")
        return 0
    return 1 if run_cases(python, root) else 0


def main(argv: list[str]) -> int:
    callers_directory.enter(argv)
    return check(pathlib.Path(_SOURCE.value).expanduser(), _PYTHON.value)


if __name__ == "__main__":
    app.run(main)
