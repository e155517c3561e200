"""How many threads compute on a CPU. Importing this does not import jax.

XLA's CPU device has one pool of threads, on which our operations in C++ run too. It reads the environment variable
NPROC when it is made, which is when JAX first computes something or is asked for its devices.
"""

import contextlib
import os
from collections.abc import Iterator

from isoprefill.host.control_groups import control_groups

VARIABLE = "ISOPREFILL_THREADS"
_XLA = "NPROC"
_MOST = 4096

_chosen: int | None = None


def use_threads(count: int | None = None) -> int:
    """Sets how many threads compute, before JAX's CPU device is made; later it has no effect.

    Args:
        count: how many. None: what ISOPREFILL_THREADS says, else what NPROC says, else `usable_threads`.

    Returns:
        How many there are.

    Raises:
        ValueError: the number is not between 1 and 4096, or another one is in use in this process.
    """
    global _chosen
    if count is not None:
        threads = _checked("threads", count)
    elif _chosen is not None:
        return _chosen
    elif VARIABLE in os.environ:
        threads = _checked(VARIABLE, os.environ[VARIABLE])
    elif _XLA in os.environ:
        threads = _checked(_XLA, os.environ[_XLA])
    else:
        threads = usable_threads()
    if _chosen not in (None, threads):
        raise ValueError(
            f"threads is {threads}, but this process computes on {_chosen} already; "
            f"set {VARIABLE} before it starts"
        )
    _chosen = threads
    os.environ[_XLA] = str(threads)
    return threads


def usable_threads() -> int:
    """Returns how many threads this process may run at once: its affinity, or the quota of its control groups."""
    try:
        threads = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        threads = os.cpu_count() or 1
    return max(1, min([threads, *(int(quota) for quota in _quotas())]))


def _checked(name: str, value: int | str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= _MOST):
        raise ValueError(f"{name} must be an integer between 1 and {_MOST}, got {value!r}")
    return int(text)


def _quotas() -> Iterator[float]:
    """Yields, in processors, the quotas of this process's control groups."""
    for version, folder in control_groups("cpu"):
        with contextlib.suppress(OSError):  # no such file
            if version == 2:
                quota, _, period = (folder / "cpu.max").read_text().partition(" ")
            else:
                quota, period = (
                    (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
                )
            if quota.strip().isdecimal():  # not "max" or -1: no quota
                yield int(quota) / int(period)
