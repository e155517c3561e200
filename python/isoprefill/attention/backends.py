"""The table of attention back ends."""

import contextlib
import importlib
from typing import get_args

import jax

from isoprefill.attention.backend import AttentionBackend
from isoprefill.modes import Backend
from isoprefill_pallas.heads import AttentionHeads

# From a name to the module that holds the back end. The one list of names is `Backend`.
BACKENDS = {
    name: f"isoprefill.attention.{name}.backend" for name in get_args(Backend) if name != "auto"
}


def find_backend(name: str) -> AttentionBackend:
    """Returns the back end of this name.

    Raises:
        ValueError: if there is none; lists the names.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {tuple(BACKENDS)}, got {name!r}")
    backend: AttentionBackend = importlib.import_module(BACKENDS[name]).BACKEND
    return backend


def choose_backend(name: str, heads: AttentionHeads) -> AttentionBackend:
    """Returns the back end of this name; for "auto" the platform's own if it takes these heads, else XLA.

    Raises:
        ValueError: if there is none of this name, or it does not take these heads.
    """
    if name == "auto":
        for backend in map(find_backend, BACKENDS):
            if backend.platform == jax.default_backend():
                with contextlib.suppress(ValueError):
                    return choose_backend(backend.name, heads)
        name = "xla"
    backend = find_backend(name)
    backend.check(heads)
    return backend
