"""A whole scoring: numbers that are known of the default model, and that neighbours do not move a score."""

from collections.abc import Iterator
from typing import Literal

import jax.numpy as jnp
import numpy as np

from isoprefill.attention.backends import choose_backend
from isoprefill.doctor.finding import Finding
from isoprefill.execution.engine import ScoringEngine
from isoprefill_pallas.heads import AttentionHeads

DEFAULT_MODEL = "smollm2-135m"
# log P(item | query) of the default model in float32, checked with PyTorch, each query + item alone;
# tests/engine/test_engine_parity.py has them, too.
QUERY = "The capital of France is"
KNOWN = {" Paris": -0.2581, " London": -4.3844, " Berlin": -6.9207, " banana": -17.2379}
TOLERANCE = {"float32": 5e-4, "bfloat16": 0.15}
_REPORT = "report this table; until then do not rely on scores from this machine"


def check_scoring(
    engine: ScoringEngine, dtype: Literal["float32", "bfloat16"], *, known: bool
) -> Iterator[Finding]:
    """Yields whether scores are the known ones, and whether neighbours move them.

    Args:
        engine: a loaded model.
        dtype: of its weights.
        known: it is the default model.
    """
    if known:
        yield _numbers(engine, dtype)
    yield _neighbours(engine, dtype)


def _numbers(engine: ScoringEngine, dtype: str) -> Finding:
    scores = engine.score(QUERY, list(KNOWN)).scores
    errors = np.abs(np.asarray(scores) - np.asarray(list(KNOWN.values())))
    error = float(np.max(errors))
    if not error <= TOLERANCE[dtype]:
        item = list(KNOWN)[int(np.argmax(np.nan_to_num(errors, nan=np.inf)))]
        detail = f"log P of {item!r} is off by {error:.2g} from the known {KNOWN[item]}"
        return Finding("known scores", "failed", detail, _REPORT)
    return Finding("known scores", "ok", f"{len(KNOWN)} within {error:.1e}")


def _neighbours(engine: ScoringEngine, dtype: str) -> Finding:
    """On a CPU a score is the same bit for bit whatever is beside it, elsewhere within rounding."""
    name = "neighbours"
    rng, vocabulary = np.random.default_rng(0), engine.model.config.vocab_size
    ids = [rng.integers(vocabulary // 100, vocabulary, length) for length in (40, 7, 19, 2)]
    query, item, *others = [part.tolist() for part in ids]
    exact = _on_cpu(engine)
    allowed = 0.0 if exact else {"float32": 1e-4, "bfloat16": 0.05}[dtype]
    alone = engine.score(query, [item], algorithm="packed").scores[0]
    worst = 0.0
    for before, after in (([], others), (others, []), (others * 30, others)):
        scores = engine.score(query, [*before, item, *after], algorithm="packed").scores
        moved = np.abs(
            np.asarray(scores[len(before)]) - np.asarray(alone)
        )  # a class has a score each
        worst = max(worst, float(np.max(moved)))
    if not worst <= allowed:
        detail = f"a score moved by {worst:.2g} when items came beside it; at most {allowed:g} is expected"
        return Finding(name, "failed", detail, _REPORT)
    detail = "not a bit moved" if worst == 0 else f"a score moved by at most {worst:.1e}"
    return Finding(name, "ok", f"{detail} when 2 to 64 items came beside it")


def _on_cpu(engine: ScoringEngine) -> bool:
    """Whether the model's attention is computed by the back end "cpu"."""
    config = engine.model.config
    q = jnp.zeros((1, config.num_query_heads, config.head_dim))
    k = jnp.zeros((1, config.num_kv_heads, config.head_dim))
    return choose_backend("auto", AttentionHeads.of(q, k)).name == "cpu"
