"""Setting up the packages: a failure names its cause and its remedy, and torch brings CUDA only where it needs it."""

import importlib.util
import pathlib
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "bazel" / "install_packages.py"


@pytest.fixture
def installer():
    """bazel/install_packages.py as a module of its own, so that a test may change it."""
    spec = importlib.util.spec_from_file_location("install_packages", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("output", "cause", "remedy"),
    [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "does not have the hash",
            "pip cache purge",
        ),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/jax/\n"
            "ERROR: Could not find a version that satisfies the requirement jax==0.10.2",
            "could not be reached",
            "HTTPS_PROXY",
        ),
        (
            "ERROR: No matching distribution found for jaxlib==0.10.2",
            "no file of a locked package",
            "PIP_INDEX_URL",
        ),
        (
            "ERROR: Could not install packages: [Errno 28] No space left on device",
            "disk is full",
            "Make room",
        ),
        ("ERROR: something new", "pip failed", "something new"),
    ],
)
def test_a_failed_install_names_cause_and_remedy(installer, output, cause, remedy):
    """Else a user without a network reads 'no matching distribution' and looks for another version."""
    message = str(installer.pip_failure("/repo/runtime.lock", output))
    assert message.startswith("Installing runtime.lock:")
    assert cause in message
    assert remedy in message


def test_a_python_that_is_too_old_is_refused(installer, monkeypatch):
    """Else the user meets a syntax error in the middle of the build."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 2, "final", 0))
    with pytest.raises(
        installer.SetupError, match=r"\(Python 3\.10\.2\) is too old.*\n.*ISOPREFILL_PYTHON"
    ):
        installer.check_interpreter()


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_python_without_venv_is_refused(installer, monkeypatch, missing):
    """Debian splits both from its Python; `python -m venv` then fails half way."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    with pytest.raises(installer.SetupError, match=r"apt-get install python3.*-venv"):
        installer.check_interpreter()


def test_a_python_without_headers_is_refused(installer, monkeypatch, tmp_path):
    """Else the compiler's message about Python.h is all that the user gets."""
    monkeypatch.setattr(installer.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(installer.SetupError, match=r"Python\.h is missing.*\n.*-dev"):
        installer.check_interpreter()


@pytest.mark.parametrize(
    ("version_file", "expected"),
    [
        ("__version__ = '2.13.0+cpu'\ncuda: str | None = None\n", ["tests.lock"]),
        ("__version__ = '2.13.0+cu130'\ncuda: str | None = '13.0'\n", ["tests.lock", "cuda.lock"]),
        (None, ["tests.lock"]),
    ],
)
def test_cudas_packages_are_installed_for_a_cuda_build_only(
    installer, monkeypatch, tmp_path, version_file, expected
):
    """They are gigabytes, and a CPU build of torch never loads them."""
    installed = []

    def pip_install(python, lock, options):
        installed.append(lock)
        if version_file is not None:
            (tmp_path / "torch").mkdir(exist_ok=True)
            (tmp_path / "torch" / "version.py").write_text(version_file)

    monkeypatch.setattr(installer, "pip_install", pip_install)
    installer.make_overlay(str(tmp_path), "tests.lock", "cuda.lock")
    assert installed == expected
