"""JAX's persistent compilation cache, so that a second start compiles nothing."""

import contextlib
import warnings

import jax

from isoprefill.models.sources.pinned import FetchError, cache_directory


def enable() -> None:
    """Keeps compiled programs in isoprefill's cache directory, unless the user has set a place of their own.

    Where isoprefill's cannot be written or read nothing is said: the next start compiles again, that is all.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        for work in ("reading", "writing"):
            warnings.filterwarnings("ignore", f"Error {work} persistent compilation cache entry")
        with contextlib.suppress(FetchError):  # no home
            jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
