"""Checks that this sglang-jax has the interface that the wrappers of hooks.py expect."""

import json
import pathlib
import sys

import jax
import sgl_jax

from isoprefill_sglang_jax import source_interface

EXPECTED = pathlib.Path(__file__).with_name("interface.json")


class IncompatibleSglangJaxError(RuntimeError):
    """The interface or a version differs from the expected one; the message lists the differences."""


def check_versions(*, allow_untested: bool) -> None:
    """Compares sglang-jax's source, jax and Python with the expected interface and the tested versions.

    Args:
        allow_untested: accept other versions of jax and Python.

    Raises:
        IncompatibleSglangJaxError: listing every difference.
    """
    expected = json.loads(EXPECTED.read_text())
    root = pathlib.Path(next(iter(sgl_jax.__path__))).parent
    found = source_interface.differences(root, expected["interface"])
    if not allow_untested:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        if python not in expected["python"]:
            found.append(f"Python {python}: expected {' or '.join(expected['python'])}")
        if jax.__version__ != expected["jax"]:
            found.append(f"jax {jax.__version__}: expected {expected['jax']}")
    if found:
        raise IncompatibleSglangJaxError(
            f"this was made for sglang-jax at {expected['commit']}; the one in {root} differs:\n"
            + "\n".join(f"- {line}" for line in found)
        )
