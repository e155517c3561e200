"""Writes the *.lock files from the *.in files: `python requirements/lock.py [--upgrade]` (needs uv on PATH).

runtime.lock stands alone. The other sets are installed over it, so their locks leave out what runtime.lock has;
integrations is installed over tests too, and leaves out what that has. CUDA's packages, which only a CUDA build of
torch needs, have a lock of their own.
"""

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
HEADER = "# Written by requirements/lock.py.\n"
CUDA = re.compile(r"(nvidia|cuda)-|triton$")
# Files that pip may choose for a locked version although the index does not list them.
EXTRA_HASHES = {
    # torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl
    "torch==2.13.0": ["6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"],
}


def compile_set(name: str, options: list[str]) -> dict[str, str]:
    """Returns the locked entries of requirements/<name>.in by package."""
    text = subprocess.run(
        ["uv", "pip", "compile", f"{name}.in", "--quiet", "--universal", "--python-version=3.11"]
        + ["--generate-hashes", "--fork-strategy=fewest", "--no-annotate", "--no-header", *options],
        cwd=HERE,
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    entries = re.split(r"\n(?=\w)", text.strip())
    return {entry.split("==")[0]: entry for entry in entries}


def with_extra_hashes(entry: str) -> str:
    """Appends the hashes in EXTRA_HASHES to the entries they belong to."""
    requirement = entry.split()[0]
    hashes = [f"--hash=sha256:{digest}" for digest in EXTRA_HASHES.get(requirement, [])]
    return " \\\n    ".join([entry, *hashes])


def write(name: str, entries: dict[str, str]) -> None:
    """Writes requirements/<name>.lock."""
    body = "\n".join(with_extra_hashes(entry) for _, entry in sorted(entries.items()))
    (HERE / f"{name}.lock").write_text(HEADER + body + "\n")


def main() -> None:
    """Locks every set."""
    options = sys.argv[1:]
    runtime = compile_set("runtime", options)
    write("runtime", runtime)
    cuda = {}
    names = ("batch", "browser", "clients", "gemma", "otel", "tests", "tpu")
    compiled = {name: compile_set(name, options) for name in names}
    for name, found in compiled.items():
        entries = {k: v for k, v in found.items() if k not in runtime}
        cuda.update({k: v for k, v in entries.items() if CUDA.match(k)})
        write(name, {k: v for k, v in entries.items() if k not in cuda})
    write("cuda", cuda)
    over = runtime.keys() | compiled["tests"].keys()
    entries = compile_set("integrations", options)
    write("integrations", {k: v for k, v in entries.items() if k not in over})


if __name__ == "__main__":
    main()
