"""Measures how long reading the weights once takes: unless a cache keeps weights, no request can be faster."""

import concurrent.futures
import dataclasses

import numpy as np

from bench_cpu.clock import Clock, timed
from isoprefill.host.threads import usable_threads

REPEATS = 9


@dataclasses.dataclass(frozen=True, slots=True)
class WeightsRead:
    """The weights of the layers and the head, read once by all cores."""

    num_bytes: int
    seconds: float


def read_weights(num_bytes: int, clock: Clock) -> WeightsRead:
    """Reads so many bytes, in a thread for each core, and returns the fastest of several times."""
    threads = usable_threads()
    parts = np.array_split(np.ones(num_bytes // 8, np.int64), threads)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            # Cheaper than a sum, so that memory is the limit. NumPy releases the GIL.
            list(pool.map(np.bitwise_or.reduce, parts))

        return WeightsRead(num_bytes, min(timed(read, clock)[0] for _ in range(REPEATS)))
