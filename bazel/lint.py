"""Checks style and types: `bazel run //bazel:lint`; with `-- --fix` it corrects what it can.

It reads the files that git tracks in the checkout, and prints one line for each check.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

import clang_format
from ruff.__main__ import find_ruff_bin


def tracked(*patterns: str) -> list[str]:
    """Returns the files that git tracks and whose names match."""
    done = subprocess.run(
        ["git", "ls-files", "--", *patterns], check=True, text=True, capture_output=True
    )
    return [name for name in done.stdout.splitlines() if os.path.exists(name)]


def checks(fix: bool) -> dict[str, list[str] | None]:
    """Returns the command of each check; None where its program is absent."""
    python = tracked("*.py")
    cc = tracked("*.cc", "*.h")
    build = tracked("*BUILD", "*.bzl", "*.bazel", "WORKSPACE")
    ruff = find_ruff_bin()
    clang = os.path.join(os.path.dirname(clang_format.__file__), "data", "bin", "clang-format")
    buildifier = shutil.which("buildifier")
    return {
        "ruff check": [ruff, "check", "--quiet", *(["--fix"] if fix else []), *python],
        "ruff format": [ruff, "format", "--quiet", *([] if fix else ["--diff"]), *python],
        "clang-format": [clang, *(["-i"] if fix else ["--dry-run", "--Werror"]), *cc],
        "mypy": [sys.executable, "-m", "mypy", "--no-error-summary"],
        "buildifier": buildifier and [buildifier, f"--mode={'fix' if fix else 'check'}", *build],
    }


def untested_files() -> list[str]:
    """Returns the test files in folders whose BUILD does not make a target of each."""
    run = {
        build.parent
        for build in map(pathlib.Path, tracked("tests/*BUILD"))
        if "\ncapability_tests(" in build.read_text()
    }
    tests = tracked("tests/**/test_*.py", "tests/test_*.py")
    return [name for name in tests if pathlib.Path(name).parent not in run]


def main() -> int:
    """Returns the number of checks that failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fix", action="store_true", help="rewrite the files")
    fix = parser.parse_args().fix
    os.chdir(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    failed = 0
    if forgotten := untested_files():
        print(f"lint: no target runs {', '.join(forgotten)}")
        failed += 1
    for name, command in checks(fix).items():
        if command is None:
            print(f"lint: {name}: absent, not checked")
            continue
        start = time.monotonic()
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        verdict = "failed" if done.returncode else "passed"
        print(
            f"{done.stdout}lint: {name}: {verdict} in {time.monotonic() - start:.1f} s", flush=True
        )
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
