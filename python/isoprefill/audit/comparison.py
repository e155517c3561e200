"""Test 4 of the seeds' plan: two servers, or two back ends, item by item."""

import dataclasses

import numpy as np

from isoprefill.audit import texts
from isoprefill.audit.instrument import Instrument

LARGEST_MAX = 0.02  # in probability: the public RFC's gate for two implementations
LARGEST_MEAN = 0.01
LARGEST_LOG = 0.1  # so that improbable labels count too; bfloat16 and float32 differ by less
LISTS = (
    ("What is two plus two?", (" four", " five", " six")),
    (texts.CAPITAL_QUERY, texts.CAPITALS),
    (texts.PLACE_QUERY, texts.PLACES),
    (texts.REVIEW_QUERY, (texts.COMPLAINT,) * 5 + (texts.PRAISE,)),
)


@dataclasses.dataclass(frozen=True, slots=True)
class ItemDifference:
    """One item, scored by two servers; differences over all labels."""

    query: str
    item: str
    position: int
    first: list[float]
    second: list[float]
    log_diff: float
    probability_diff: float


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Two servers' scores of the same items.

    `agree` says whether probabilities differ by at most LARGEST_MAX, in the mean by LARGEST_MEAN, and their logarithms
    by LARGEST_LOG.
    """

    server_url: str
    items: tuple[ItemDifference, ...]
    max_log_diff: float
    max_probability_diff: float
    mean_probability_diff: float
    agree: bool


def compare(first: Instrument, second: Instrument) -> Comparison:
    """Scores the same items with both servers.

    Raises:
        ServerError: of either server.
        Rejected: one of them does not take the input.
        ValueError: they do not send the same number of scores for an item.
    """
    items = []
    for query, texts_ in LISTS:
        ours, theirs = (one.measure(query, list(texts_)) for one in (first, second))
        if ours.shape != theirs.shape:
            raise ValueError(
                f"{first.client.server_url} sends {ours.shape[1]} scores for an item, "
                f"{second.client.server_url} {theirs.shape[1]}"
            )
        for position, text in enumerate(texts_):
            a, b = ours[position], theirs[position]
            log_diff = float(np.abs(a - b).max())
            probability_diff = float(np.abs(np.exp(a) - np.exp(b)).max())
            items.append(
                ItemDifference(
                    query, text, position, a.tolist(), b.tolist(), log_diff, probability_diff
                )
            )
    differences = [item.probability_diff for item in items]
    largest, mean = max(differences), float(np.mean(differences))
    largest_log = max(item.log_diff for item in items)
    return Comparison(
        second.client.server_url,
        tuple(items),
        largest_log,
        largest,
        mean,
        largest <= LARGEST_MAX and mean <= LARGEST_MEAN and largest_log <= LARGEST_LOG,
    )
