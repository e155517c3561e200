"""How much memory this process may have."""

import contextlib
import os
import resource
from pathlib import Path

from isoprefill.host.control_groups import control_groups


def host_bytes() -> int:
    """Returns the bytes of memory that this process may have, used or not."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_control_group_limits()])


def address_space_left() -> int | None:
    """Returns the bytes of address space that this process may still map; None: as many as there are."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):  # not Linux
        pages = 0
    return max(0, limit - pages * os.sysconf("SC_PAGE_SIZE"))


def _control_group_limits() -> list[int]:
    """Returns the memory limits, in bytes, of the process's control groups."""
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    limits = []
    for version, folder in control_groups("memory"):
        with contextlib.suppress(OSError, ValueError):  # no such file; "max", which is no limit
            limits.append(int((folder / names[version]).read_text()))
    return limits
