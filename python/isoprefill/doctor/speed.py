"""How fast a request is here, beside what docs/performance.md measured on a machine of this kind."""

import statistics
import time
import tomllib
from collections.abc import Callable
from importlib import resources

import numpy as np

from isoprefill.doctor.finding import Finding
from isoprefill.execution.engine import ScoringEngine

# The workload `demo` of bench_cpu.
_QUERY, _ITEMS, _ITEM = 256, 32, 16
_LABELS = [100, 200]
_SECONDS = 10.0
_MUCH_SLOWER = 2.5
_ADVICE = "look for other work on this machine, a quota on its processors, or --threads; docs/performance.md"


def check_speed(
    engine: ScoringEngine,
    dtype: str,
    kind: str,
    *,
    known: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Finding:
    """Scores requests for about ten seconds and returns how long one takes.

    Args:
        engine: a loaded model.
        dtype: of its weights.
        kind: what computes: the instructions of a CPU, or JAX's name of a device.
        known: it is the default model, of which there are measured times.
        clock: in seconds.
    """
    rng, vocabulary = np.random.default_rng(0), engine.model.config.vocab_size
    labels = _LABELS if engine.model.config.classes is None else None
    took: list[float] = []
    began = clock()
    while len(took) < 4 or clock() - began < _SECONDS:
        ids = rng.integers(vocabulary // 100, vocabulary, _QUERY + _ITEMS * _ITEM)
        query, items = ids[:_QUERY].tolist(), ids[_QUERY:].reshape(_ITEMS, _ITEM).tolist()
        start = clock()
        engine.score(query, items, labels, algorithm="packed")
        took.append(clock() - start)
        if len(took) == 1:  # it compiled
            began = clock()
    median = statistics.median(took[1:])
    what = f"{_QUERY} + {_ITEMS} x {_ITEM} tokens, {dtype}: {median * 1e3:.0f} ms"
    expected = _measured().get(kind, {}).get(dtype) if known else None
    if expected is None:
        return Finding("speed", "ok", f"{what}; none was measured for {kind}")
    detail = f"{what}; {expected['ms']:.0f} ms on {expected['machine']}"
    if median * 1e3 > _MUCH_SLOWER * expected["ms"]:
        return Finding("speed", "note", detail, _ADVICE)
    return Finding("speed", "ok", detail)


def _measured() -> dict[str, dict[str, dict[str, float]]]:
    file = resources.files(__package__) / "measured.toml"
    return tomllib.loads(file.read_text("utf-8"))
