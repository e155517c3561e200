"""Takes the time of a call, by the wall or by the processor."""

import time
from collections.abc import Callable
from typing import Any, Literal

from isoprefill.host.threads import usable_threads

Clock = Literal["wall", "cpu"]  # cpu: processor time of all threads, divided by the cores


def timed(call: Callable[[], Any], clock: Clock) -> tuple[float, Any]:
    """Returns the seconds that a call takes, and its result."""
    now, cores = time.perf_counter, 1
    if clock == "cpu":
        now, cores = time.process_time, usable_threads()
    begin = now()
    result = call()
    return (now() - begin) / cores, result
