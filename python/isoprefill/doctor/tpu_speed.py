"""How long the kernels of a step take on a TPU, beside what its compiler's schedule says they would."""

import functools
import statistics
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import jax
import numpy as np

from isoprefill.doctor.finding import Finding
from isoprefill.doctor.regions import FULL, Region, Shape, regions
from isoprefill_pallas.chips import chip_of

TIMES = 20  # of a region in the shorter program; the longer one has twice as many
_REPEATS = 5
# The estimate counts no waiting, so that a kernel takes longer; much longer, or less, is news.
_LEAST, _MOST = 0.8, 2.0
_ADVICE = "please report this table with --report: no TPU had measured these kernels when they were written"


def check_tpu_speed(
    device_kind: str,
    shape: Shape = FULL,
    *,
    times: int = TIMES,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Finding]:
    """Yields for each region how long it takes on the device that is there.

    Args:
        device_kind: JAX's name of the device; what is not a known TPU has no estimates.
        shape: what is computed.
        times: of a region in the shorter of two programs, of which the difference counts.
        clock: in seconds.
    """
    chip = chip_of(device_kind)
    estimates = {} if chip is None else _estimated().get(chip.name, {})
    for region in regions(shape):
        name = f"time: {region.name}"
        try:
            measured = measure(region, times, clock)
        except (RuntimeError, NotImplementedError) as error:  # of XLA: its compiler or the device
            detail = f"does not run: {str(error).splitlines()[0]}"
            yield Finding(name, "failed", detail, _ADVICE)
            continue
        yield _finding(name, device_kind, measured, estimates.get(region.name))


def measure(region: Region, times: int, clock: Callable[[], float]) -> float:
    """Returns the seconds of one run: of twice as many in one program less `times`, so that no call counts."""
    run = jax.jit(region.run)
    arrays = _random(region)

    def seconds(count: int) -> float:
        begin = clock()
        jax.block_until_ready(run(np.int32(count), *arrays))
        return clock() - begin

    seconds(times)  # it compiles
    return statistics.median(seconds(2 * times) - seconds(times) for _ in range(_REPEATS)) / times


def _finding(name: str, kind: str, measured: float, estimated: float | None) -> Finding:
    numbers = {"measured_ms": measured * 1e3}
    if estimated is None:
        detail = f"{measured * 1e3:.3f} ms; no estimate is known for {kind}"
        return Finding(name, "ok", detail, numbers=numbers)
    numbers["estimated_ms"] = estimated
    ratio = measured * 1e3 / estimated
    detail = (
        f"{measured * 1e3:.3f} ms, {ratio:.2f} of the {estimated:.3f} ms of the compiler's schedule"
    )
    if _LEAST <= ratio <= _MOST:
        return Finding(name, "ok", detail, numbers=numbers)
    return Finding(name, "note", detail, _ADVICE, numbers)


def _random(region: Region) -> list[Any]:
    """Returns arrays whose products neither overflow nor vanish."""
    rng = np.random.default_rng(0)

    def array(shape: Any) -> Any:
        if not isinstance(shape, jax.ShapeDtypeStruct):
            return shape
        scale = shape.shape[-1] ** -0.5 if len(shape.shape) == 3 else 1.0
        return jax.device_put(
            (rng.standard_normal(shape.shape, np.float32) * scale).astype(shape.dtype)
        )

    return [array(shape) for shape in region.shapes]


@functools.cache
def _estimated() -> dict[str, dict[str, float]]:
    """Returns milliseconds of one run by chip and region."""
    file = resources.files(__package__) / "estimated.toml"
    return tomllib.loads(file.read_text("utf-8"))
