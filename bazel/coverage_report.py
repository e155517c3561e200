"""Reports which lines of Python and of csrc the tests run: `bazel run //bazel:coverage_report -- --events=FILE`.

FILE is what `bazel test --config=coverage --build_event_json_file=FILE //...` wrote. Those tests recorded the lines of
Python. For C++, csrc is compiled again with gcov's counters, and its tests are run again: the C++ ones, and a few in
Python. Files for instructions that this processor lacks cannot run; they are named and left out.

It fails if fewer than 95% of the lines of either were run.
"""

import argparse
import concurrent.futures
import glob
import gzip
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable

import coverage

import build_events
import install_packages

LEAST = 95.0
# Those of the extension; and some of the engine, whose layers call what is left of the bindings.
PYTHON_TESTS = ("tests/csrc", "tests/engine/test_score_stream.py")
PYTHON_FILES = (
    "python/isoprefill/**/*.py",
    "python/isoprefill_sglang_jax/*.py",
    "pallas/isoprefill_pallas/**/*.py",
    "pallas/isoprefill_tpu_lab/*.py",
)
# What runs with other packages only: pyarrow and Ray, those of the integrations, and OpenTelemetry.
# The manual targets of //tests/batch and //tests/integrations, and //tests/server:tracing, bring them.
OTHERS_PACKAGES = {
    *(
        f"python/isoprefill/batch/{name}.py"
        for name in (
            "block_scoring",
            "cells",
            "dataset",
            "directory",
            "input_files",
            "job",
            "job_files",
            "job_request",
            "ray_session",
            "row_order",
            "scored_tables",
            "shuffle",
        )
    ),
    "python/isoprefill/cli/batch.py",
    "python/isoprefill/cli/batch_progress.py",
    "python/isoprefill/integrations/haystack.py",
    "python/isoprefill/integrations/langchain.py",
    "python/isoprefill/integrations/llama_index.py",
    "python/isoprefill/integrations/lm_eval/__main__.py",
    "python/isoprefill/integrations/lm_eval/model.py",
    "python/isoprefill/integrations/pyterrier.py",
    "python/isoprefill/server/tracing.py",
}
DATA = "python.coverage"  # the name that pytest_main.py gives the data in a test's outputs


def report(title: str, files: Iterable[tuple[str, int, list[int], int]]) -> bool:
    """Prints the files that were not run in whole, and the sum; tells whether it reaches LEAST percent.

    Args:
        title: of what.
        files: the name of each, its number of lines, the lines that were not run, and how many are excluded.
    """
    total = run = 0
    for name, lines, missing, excluded in files:
        total += lines
        run += lines - len(missing)
        if missing or excluded:
            left_out = f", {excluded} left out by 'pragma: no cover'" if excluded else ""
            numbers = ", ".join(map(str, missing[:20])) + (", …" if len(missing) > 20 else "")
            print(
                f"  {name}: {lines - len(missing)}/{lines}{left_out}; not run: {numbers or 'none'}"
            )
    share = 100.0 * run / total if total else 0.0
    print(f"coverage: {title}: {share:.1f}% ({run} of {total} lines)", flush=True)
    return share >= LEAST


def report_python(event_file: pathlib.Path, work: pathlib.Path) -> bool:
    """Adds up the lines of Python that the tests recorded."""
    parts = []
    for result in build_events.read_results(event_file):
        archive = result.outputs.get("test.outputs__outputs.zip")
        if archive is None:
            continue
        with zipfile.ZipFile(archive) as outputs:
            for name in outputs.namelist():
                if name.startswith(DATA):
                    part = work / f"{DATA}.{len(parts)}"
                    part.write_bytes(outputs.read(name))
                    parts.append(str(part))
    measured = coverage.Coverage(data_file=work / DATA, config_file=False)
    if parts:
        measured.combine(parts)
    files = []
    for name in sorted(
        file for pattern in PYTHON_FILES for file in glob.glob(pattern, recursive=True)
    ):
        if name in OTHERS_PACKAGES:
            print(f"  {name}: left out, needs packages that the tests do not have")
            continue
        _, statements, excluded, missing, _ = measured.analysis2(name)
        files.append((name, len(statements), missing, len(excluded)))
    return report("Python", files)


def compile_with_counters(work: pathlib.Path) -> None:
    """Compiles the extension and each C++ test into work."""
    # Optimised a little, or the intrinsics take minutes. Threads may lose counts, but never the first of a line.
    flags = ["-std=c++17", "-O1", "-fPIC", "-I.", "--coverage", "-DISOPREFILL_COUNTED"]
    flags += [f"-isystem{directory}" for directory in install_packages.header_directories()]

    def compile_one(source: str) -> str:
        compiled = work / (source.replace("/", "_") + ".o")
        subprocess.run(["g++", *flags, "-c", source, "-o", compiled], check=True)
        return str(compiled)

    sources = sorted(glob.glob("csrc/*.cc") + glob.glob("csrc/bindings/*.cc"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = dict(zip(sources, pool.map(compile_one, sources), strict=True))
    tests = [source for source in sources if source.endswith("_test.cc")]
    library = [compiled[s] for s in sources if s not in tests and "/bindings/" not in s]
    bindings = [compiled[s] for s in sources if "/bindings/" in s]
    link = ["g++", "--coverage", "-o"]
    subprocess.run([*link, work / "isoprefill_csrc.so", "-shared", *library, *bindings], check=True)
    for test in tests:
        program = work / pathlib.Path(test).stem
        subprocess.run([*link, program, compiled[test], *library], check=True)


def report_cc(work: pathlib.Path) -> bool:
    """Compiles csrc with counters, runs its tests and adds up the lines that were run."""
    compile_with_counters(work)
    path = os.pathsep.join([str(work), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    # The longest first. Each adds its counts to the files when it ends, and gcov locks these.
    commands = [[sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PYTHON_TESTS]]
    commands += [[str(program)] for program in sorted(work.glob("*_test"))]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: subprocess.run(command, env=env, check=True), commands))
    subprocess.run(
        ["gcov", "--json-format", *work.glob("*.gcda")],
        cwd=work,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    counts: dict[str, dict[int, int]] = {}
    for counted in work.glob("*.gcov.json.gz"):
        for file in json.loads(gzip.decompress(counted.read_bytes()))["files"]:
            name = os.path.relpath(file["file"])
            if name.startswith("csrc/") and not name.endswith(("_test.cc", "csrc/testing.h")):
                lines = counts.setdefault(name, {})
                for line in file["lines"]:
                    number = line["line_number"]
                    lines[number] = max(lines.get(number, 0), line["count"])
    files = []
    ask = "import isoprefill_csrc; print(*isoprefill_csrc.available_instructions())"
    available = subprocess.check_output([sys.executable, "-c", ask], env=env, text=True).split()
    for name, lines in sorted(counts.items()):
        needed = re.search(r"_(avx\w+|amx)\.", name)
        if needed and needed[1] not in available:
            print(f"  {name}: {len(lines)} lines left out: this processor has no {needed[1]}")
            continue
        missing = sorted(number for number, count in lines.items() if not count)
        files.append((name, len(lines), missing, 0))
    return report("csrc", files)


def main() -> int:
    """Prints both reports; returns how many fall short."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=pathlib.Path, required=True)
    event_file = parser.parse_args().events
    os.chdir(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    with tempfile.TemporaryDirectory() as work:
        results = [report_python(event_file, pathlib.Path(work)), report_cc(pathlib.Path(work))]
    return results.count(False)


if __name__ == "__main__":
    sys.exit(main())
