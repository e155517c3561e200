"""Isolated multi-item scoring inside sglang-jax: `install()` before the engine or the server is started.

sglang-jax then scores all items of a `score` request in one prefill instead of one prompt per item, with our
attention for these requests and its own for everything else. docs/integration.md says how it fits together and
what it was run on.

Names load when they are first used: `source_interface` reads sglang-jax's source and does not need it installed.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoprefill_sglang_jax.hooks import install
    from isoprefill_sglang_jax.versions import IncompatibleSglangJaxError

__all__ = ["IncompatibleSglangJaxError", "install"]


def __getattr__(name: str) -> Any:
    """Loads a public name.

    Raises:
        ImportError: sglang-jax is not installed.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec("sgl_jax") is None:
        raise ImportError(
            "isoprefill_sglang_jax needs sglang-jax (package sgl_jax), which is not installed. Install it from its "
            'source tree, "pip install <sglang-jax>/python[cpu]" (or [tpu]), into Python 3.12 or 3.13; the release on '
            "the package index is too old."
        )
    module = "hooks" if name == "install" else "versions"
    return getattr(importlib.import_module(f"isoprefill_sglang_jax.{module}"), name)
