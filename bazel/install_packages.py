"""Installs a locked set of Python packages; pypi.bzl runs this with a bare interpreter.

  check                        checks that this Python can make an environment
  environment DIRECTORY LOCK   makes a virtual environment
  environments LOCK DIRECTORY=PYTHON...   makes one for each Python, at the same time
  overlay DIRECTORY LOCK... PACKAGE...    run by that environment's Python: adds packages beside it; those that are
                               named are built from their sources
  headers                      prints where Python's, pybind11's and jaxlib's headers are

A failure prints its cause and its remedy.
"""

import concurrent.futures
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig

OLDEST_PYTHON = (3, 11)

# What pip prints, the cause, and the remedy: the first that matches is named.
PIP_FAILURES = (
    (
        r"DO NOT MATCH THE HASHES",
        "a downloaded file does not have the hash that the lock names",
        "Clear pip's cache (pip cache purge) and try again. "
        "If it stays, the index serves a changed file: do not use it.",
    ),
    (
        r"connection broken|NewConnectionError|NameResolutionError|Network is unreachable"
        r"|Temporary failure in name resolution|Timeout|SSLError|ProxyError",
        "the package index could not be reached",
        "Check the network, the proxy (HTTPS_PROXY) and the certificates (PIP_CERT), "
        "then run the same command again.",
    ),
    (
        r"Could not find a version|No matching distribution",
        "the package index has no file of a locked package for this Python and platform",
        "Use a Python from 3.11 to 3.14 on Linux, or another index (PIP_INDEX_URL); "
        "if it has none of any version, check the network too.",
    ),
    (
        r"No space left on device",
        "the disk is full",
        "Make room; the runtime set takes about 1 GB and the tests set about 1.5 GB.",
    ),
)


class SetupError(Exception):
    """A set-up step failed; the message names the cause and the remedy."""


def pip_failure(lock, output):
    """Returns the SetupError that explains pip's output."""
    cause, remedy = "pip failed", "Its own words follow."
    for pattern, known_cause, known_remedy in PIP_FAILURES:
        if re.search(pattern, output):
            cause, remedy = known_cause, known_remedy
            break
    last_lines = "\n".join(output.strip().splitlines()[-15:])
    name = os.path.basename(lock)
    return SetupError(f"Installing {name}: {cause}.\n{remedy}\n\n{last_lines}")


def check_interpreter():
    """Raises SetupError unless this Python can make the environment and compile an extension."""
    major, minor, micro = sys.version_info[:3]
    this = f"{sys.executable} (Python {major}.{minor}.{micro})"
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            f"{this} is too old: isoprefill needs Python 3.11 or later.\n"
            "Install one and name it: ISOPREFILL_PYTHON=/path/to/python3.11."
        )
    package = f"python{major}.{minor}"
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(f"{this} has no venv module.\nDebian: apt-get install {package}-venv")
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    if not os.path.exists(header):
        raise SetupError(
            f"{this} has no C headers: {header} is missing.\nDebian: apt-get install {package}-dev"
        )


def run(command):
    """Runs a command; returns (exit code, its output and errors together)."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def pip_install(python, lock, options=()):
    """Installs the packages of one lock, wheels only, every file checked against its hashes."""
    command = [python, "-m", "pip", "install", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--no-input"]
    command += ["--disable-pip-version-check", "--no-warn-script-location"]
    code, output = run(command + list(options) + ["-r", lock])
    if code:
        raise pip_failure(lock, output)


def make_environment(directory, lock, base=sys.executable, options=()):
    """Makes a virtual environment of the base Python that holds the packages of one lock."""
    code, output = run([base, "-m", "venv", "--clear", directory])
    if code:
        raise SetupError("python -m venv failed:\n" + output)
    programs = os.path.join(directory, "bin")
    for name in os.listdir(programs):
        if not name.isascii():  # Python 3.14's 𝜋thon, which Bazel cannot delete under the C locale
            os.remove(os.path.join(programs, name))
    python = os.path.join(programs, "python")
    pip_install(python, lock, options)
    code, output = run([python, "-m", "pip", "check"])
    if code:
        raise SetupError(
            f"The packages of {lock} are incompatible with one another (pip check):\n{output}"
        )


def make_environments(lock, *directories_and_pythons):
    """Makes an environment for each DIRECTORY=PYTHON.

    Their modules are compiled when they are imported: these environments serve a single test, which needs few.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        made = [
            pool.submit(make_environment, directory, lock, python, ["--no-compile"])
            for directory, python in (pair.split("=", 1) for pair in directories_and_pythons)
        ]
    for each in made:
        each.result()


def has_cuda_torch(directory):
    """Tells whether the torch in a directory is a build for CUDA; False without torch."""
    version_file = os.path.join(directory, "torch", "version.py")
    if not os.path.exists(version_file):
        return False
    namespace = {}
    with open(version_file) as source:
        exec(source.read(), namespace)
    return namespace["cuda"] is not None


def make_overlay(directory, lock, *more):
    """Installs the packages of one lock in a plain directory, and CUDA's where torch was built for it.

    After the locks come the names of packages that have no wheel; the environment has what builds them.
    """
    cuda_lock = next((one for one in more if one.endswith(".lock")), None)
    sources = [one for one in more if one != cuda_lock]
    options = [f"--no-binary={','.join(sources)}", "--no-build-isolation"] if sources else []
    pip_install(sys.executable, lock, ["--target", directory, *options])
    if cuda_lock and has_cuda_torch(directory):
        pip_install(sys.executable, cuda_lock, ["--target", directory])


def header_directories():
    """Returns the include directories that the extension is compiled with."""
    import jaxlib
    import pybind11

    jaxlib_directory = os.path.dirname(jaxlib.__file__)
    return [
        sysconfig.get_paths()["include"],
        pybind11.get_include(),
        os.path.join(jaxlib_directory, "include"),
    ]


def main(arguments):
    """Returns the exit code."""
    steps = {
        "check": check_interpreter,
        "environment": make_environment,
        "environments": make_environments,
        "overlay": make_overlay,
        "headers": lambda: print(*header_directories(), sep="\n"),
    }
    try:
        steps[arguments[0]](*arguments[1:])
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
