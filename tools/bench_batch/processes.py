"""What the processes below this one use, from /proc."""

import os
import pathlib
import threading
import time
from collections.abc import Mapping

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
EVERY_S = 0.5


class Watch(threading.Thread):
    """Looks at all processes below this one until it is stopped.

    Attributes:
        actor_bytes: the largest resident size of an actor of the job, at each look that found one.
        cpu_s: of each process, by its number and whether it is an actor; the last that was seen.
        other_bytes: the largest resident size of all others together.
    """

    def __init__(self) -> None:
        """Begins to look at once."""
        super().__init__(daemon=True)
        self.actor_bytes: list[int] = []
        self.cpu_s: dict[tuple[int, bool], float] = {}
        self.other_bytes = 0
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(EVERY_S):
            actors, others = [], 0
            for process, (title, cpu_s, resident) in _below(os.getpid()).items():
                is_actor = title.startswith("ray::JobActor.score")
                self.cpu_s[process, is_actor] = cpu_s
                if is_actor:
                    actors.append(resident)
                else:
                    others += resident
            self.other_bytes = max(self.other_bytes, others)
            if actors:
                self.actor_bytes.append(max(actors))

    def stop(self) -> None:
        self._ended.set()
        self.join()

    @property
    def ray_cpu_s(self) -> float:
        """Of all processes that are no actors that scored."""
        scored = {process for process, is_actor in self.cpu_s if is_actor}
        return sum(cpu_s for (process, _), cpu_s in self.cpu_s.items() if process not in scored)


def _below(root: int) -> Mapping[int, tuple[str, float, int]]:
    """Returns the title, the CPU seconds and the resident bytes of each process below one."""
    found, parents = {}, {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text()
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:  # it has ended
            continue
        fields = stat.rpartition(")")[2].split()
        process = int(entry.name)
        parents[process] = int(fields[1])
        found[process] = (
            title,
            (int(fields[11]) + int(fields[12])) / TICKS,
            int(fields[21]) * PAGE,
        )
    below = {root}
    grown = True
    while grown:
        more = {process for process, parent in parents.items() if parent in below} - below
        below |= more
        grown = bool(more)
    return {process: found[process] for process in below - {root} if process in found}


def seconds() -> tuple[float, float]:
    """Returns wall-clock seconds, and CPU seconds of this process."""
    return time.perf_counter(), time.process_time()
