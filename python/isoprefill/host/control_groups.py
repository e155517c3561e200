"""The control groups that this process lies in (Linux, versions 1 and 2): they limit its memory and its processors."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def control_groups(controller: Literal["cpu", "memory"]) -> Iterator[tuple[Literal[1, 2], Path]]:
    """Yields the folders of the process's own group and of those above it, and the version whose files they hold.

    In a container the root may be the process's own group, under a path that only the machine knows: a folder need not
    exist.
    """
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)  # "4:memory:/docker/1f2e", or "0::/docker/1f2e"
        own = Path(os.path.normpath(group)).relative_to("/")
        for folder in (own, *own.parents):
            if not controllers:
                yield 2, _GROUPS / folder
            elif controller in controllers.split(","):
                yield 1, _GROUPS / controller / folder
