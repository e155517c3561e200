"""Builds csrc's library, the extension, then the wheel, from copies of the sources; wheel.bzl runs this.

    build_wheel.py library --library=DIRECTORY FILE...
    build_wheel.py extension --library=DIRECTORY --build=DIRECTORY FILE...
    build_wheel.py wheel --library=DIRECTORY --build=DIRECTORY --wheel=DIRECTORY FILE...

There are three steps, so that a change of Python alone compiles nothing and all versions of Python share the library.
Nothing is downloaded: setuptools, pybind11 and jaxlib are those of the Python that builds, which is the one that runs
this, or with `--python=3.12 --pythons=FILE` the one that FILE names for 3.12. The directories stay empty if FILE names
no such Python, or names the running one.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

LIBRARY = "build/library"  # where setup.py puts it


def copy_tree(files: list[str], directory: pathlib.Path) -> None:
    """Copies the files (relative paths) into a directory, with one old date, so that nothing seems out of date."""
    for file in files:
        copy = directory / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        os.utime(copy, (0, 0))


def run(command: list[str], directory: pathlib.Path) -> None:
    """Runs a command; exits with its output if it fails."""
    done = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")


def build_library(python: str, tree: pathlib.Path, library: pathlib.Path) -> None:
    """Compiles csrc without Python; leaves setuptools' directory of it in library."""
    run([python, "setup.py", "--quiet", "build_clib"], tree)
    shutil.copytree(tree / LIBRARY, library, dirs_exist_ok=True)


def build_extension(python: str, tree: pathlib.Path, build: pathlib.Path) -> None:
    """Compiles the extension; leaves setuptools' build directory in build."""
    run([python, "setup.py", "--quiet", "build_ext"], tree)
    shutil.rmtree(tree / LIBRARY)
    shutil.rmtree(next(tree.glob("build/temp*")))  # object files
    shutil.copytree(tree / "build", build, dirs_exist_ok=True)


def build_wheel(python: str, tree: pathlib.Path, build: pathlib.Path, wheel: pathlib.Path) -> None:
    """Packs the wheel with the extension that build_extension left in build."""
    shutil.copytree(build, tree / "build", copy_function=shutil.copyfile, dirs_exist_ok=True)
    command = [python, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    command += ["--no-cache-dir", "--disable-pip-version-check"]
    run([*command, f"--wheel-dir={wheel.absolute()}", "."], tree)


def choose_python(version: str, pythons: pathlib.Path) -> str | None:
    """Returns the interpreter that is named for a version; None if there is none, or if it is this one's version."""
    found = dict(line.split(": ", 1) for line in pythons.read_text().splitlines())[version]
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    return None if version == own or found.startswith("absent") else found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["library", "extension", "wheel"])
    parser.add_argument("--library", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("--wheel", type=pathlib.Path)
    parser.add_argument("--python")
    parser.add_argument("--pythons", type=pathlib.Path)
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    python: str | None = sys.executable
    if arguments.python:
        python = choose_python(arguments.python, arguments.pythons)
    if python is None:
        return
    with tempfile.TemporaryDirectory() as temporary:
        tree = pathlib.Path(temporary)
        copy_tree(arguments.files, tree)
        if arguments.step == "library":
            build_library(python, tree, arguments.library)
            return
        shutil.copytree(arguments.library, tree / LIBRARY, copy_function=shutil.copyfile)
        if arguments.step == "extension":
            build_extension(python, tree, arguments.build)
        else:
            build_wheel(python, tree, arguments.build, arguments.wheel)


if __name__ == "__main__":
    main()
