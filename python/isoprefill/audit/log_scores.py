"""Turns the scores that a server sends into log scores.

SGLang sends probabilities, others log-probabilities, or {"score": …} objects with either. Of a classification model
they are often logits, which are compared as they are: a difference of logits is one of log odds.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

Scale = Literal["log", "probability", "logit"]

LogScores = Float64[np.ndarray, "N L"]  # natural logarithms, of N items for L labels

ROUNDING = 1e-6  # by which a probability may be above 1
LOG_FLOOR = -1e4  # stands for log 0, so that differences stay finite


class MalformedScoresError(ValueError):
    """The `scores` of an answer do not follow the API."""


def parse_scores(scores: Any) -> Float64[np.ndarray, "N L"]:
    """Returns the numbers of an answer as the server sent them: a row for each item, a column for each label.

    An item's score may be a number, a list of numbers, or an object with the key "score" or "scores"; null is log 0.
    If it has an "index", that is the item's place.

    Raises:
        MalformedScoresError: they are anything else.
    """
    if not isinstance(scores, list) or not scores:
        kind = "an empty list" if scores == [] else type(scores).__name__
        raise MalformedScoresError(f"scores must be a list with an entry for each item, got {kind}")
    rows = [_row(index, entry) for index, entry in enumerate(scores)]
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise MalformedScoresError("every item must have the same number of scores, at least 1")
    return np.array(rows, np.float64)


def detect_scale(scores: Float64[np.ndarray, "N L"], *, of_classes: bool = False) -> Scale:
    """Tells probabilities, which lie in [0, 1], from log-probabilities, which are at most 0.

    Args:
        scores: as the server sent them.
        of_classes: they are of a classification model. Then they are logits, unless all rows are probabilities that
            sum to 1.

    Raises:
        MalformedScoresError: they are neither.
    """
    if of_classes:
        sums_to_one = (np.abs(scores.sum(axis=1) - 1) < 1e-3).all()
        return "probability" if (scores >= 0).all() and sums_to_one else "logit"
    if (scores <= 0).all() and (scores < 0).any():
        return "log"
    if ((scores >= 0) & (scores <= 1 + ROUNDING)).all():
        return "probability"
    raise MalformedScoresError(
        f"scores must be probabilities in [0, 1] or log-probabilities of at most 0, "
        f"got {scores.min():.6g} to {scores.max():.6g}; if they are logits of a classification model, give --scale "
        "logit"
    )


def check_scale(scores: Float64[np.ndarray, "N L"], scale: Scale) -> None:
    """Raises MalformedScoresError if scores cannot be of this scale: the first ones may have had another by chance."""
    lowest, highest = {"log": (-np.inf, 0), "probability": (0, 1), "logit": (-np.inf, np.inf)}[
        scale
    ]
    if (scores < lowest - ROUNDING).any() or (scores > highest + ROUNDING).any():
        kind = (
            "probabilities in [0, 1]"
            if scale == "probability"
            else "log-probabilities of at most 0"
        )
        raise MalformedScoresError(
            f"scores must be {kind}, as those before, got {scores.min():.6g} to {scores.max():.6g}; if they are logits "
            "of a classification model, give --scale logit"
        )


def to_log(scores: Float64[np.ndarray, "N L"], scale: Scale) -> LogScores:
    """Returns natural logarithms, at least LOG_FLOOR; logits as they are."""
    if scale == "probability":
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.log(np.maximum(scores, 0.0))
    return np.maximum(scores, LOG_FLOOR)


def probabilities(log_scores: LogScores, scale: Scale) -> Float64[np.ndarray, "N L"]:
    """Returns what the scores say as probabilities: of logits the softmax, or of a single one the sigmoid."""
    if scale != "logit":
        return np.exp(log_scores)
    if log_scores.shape[1] == 1:
        return np.exp(-np.logaddexp(0, -log_scores))
    return np.exp(log_scores - np.logaddexp.reduce(log_scores, axis=1, keepdims=True))


def as_json(row: Float64[np.ndarray, "L"]) -> float | list[float]:
    """Returns the scores of an item as JSON: a number if there is only one, as in test_pytorch_isolation.py."""
    return float(row[0]) if row.size == 1 else row.tolist()


def _row(index: int, entry: Any) -> list[float]:
    if isinstance(entry, dict):
        if entry.get("index", index) != index:
            raise MalformedScoresError(
                f"scores[{index}] must be of the item in that place, got index {str(entry['index'])[:40]}"
            )
        entry = entry.get("scores", entry.get("score", "missing"))
    values = entry if isinstance(entry, list) else [entry]
    return [float("-inf") if value is None else _number(index, value) for value in values]


def _number(index: int, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise MalformedScoresError(f"scores[{index}] must hold numbers, got {str(value)[:40]}")
    try:
        return float(value)
    except OverflowError:
        raise MalformedScoresError(
            f"scores[{index}] must hold numbers that fit into 64 bits, got {str(value)[:40]}…"
        ) from None
