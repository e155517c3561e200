"""Isolated multi-item scoring inside sglang-jax: `install()` before the engine or the server is started.

sglang-jax then scores all items of a `score` request in one prefill instead of one prompt per item, with our
attention for these requests and its own for everything else. docs/integration.md says how it fits together and
what it was run on.

Raises on import:
    ImportError: sglang-jax is not installed.
"""

import importlib.util

if importlib.util.find_spec("sgl_jax") is None:
    raise ImportError(
        "isoprefill.integrations.sglang_jax needs sglang-jax (package sgl_jax), which is not installed. Install it "
        'from its source tree, "pip install <sglang-jax>/python[cpu]" (or [tpu]), into Python 3.12 or 3.13; the '
        "release on the package index is too old."
    )

from isoprefill.integrations.sglang_jax.install import install
from isoprefill.integrations.sglang_jax.versions import IncompatibleSglangJaxError

__all__ = ["IncompatibleSglangJaxError", "install"]
