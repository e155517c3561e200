"""Compares two servers, or two back ends, item by item: test 4 of docs/isolation-investigation.md."""

import dataclasses

import numpy as np

from isoprefill.audit import texts
from isoprefill.audit.instrument import Instrument
from isoprefill.audit.log_scores import probabilities

LISTS = (
    ("What is two plus two?", (" four", " five", " six")),
    (texts.CAPITAL_QUERY, texts.CAPITALS),
    (texts.PLACE_QUERY, texts.PLACES),
    (texts.REVIEW_QUERY, (texts.COMPLAINT,) * 5 + (texts.PRAISE,)),
)


@dataclasses.dataclass(frozen=True, slots=True)
class ItemDifference:
    """One item as two servers score it; the differences are the largest over all labels."""

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

    `agree` says whether log scores differ by at most `AuditSettings.compare_tolerance`.
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
        ServerError: one of them cannot be reached, or does not follow the API.
        Rejected: one of them refuses the input.
        ValueError: they send different numbers of scores for an item, or only one sends logits.
    """
    scales = [one.client.scale or "log" for one in (first, second)]
    if (scales[0] == "logit") != (scales[1] == "logit"):
        raise ValueError(
            f"{first.client.server_url} and {second.client.server_url} cannot be compared: only one of them sends "
            "logits; if both do, give --scale logit"
        )
    items = []
    for query, texts_ in LISTS:
        ours, theirs = (one.measure(query, list(texts_)) for one in (first, second))
        if ours.shape != theirs.shape:
            raise ValueError(
                f"{first.client.server_url} sends {ours.shape[1]} scores for an item, "
                f"{second.client.server_url} {theirs.shape[1]}"
            )
        differences = np.abs(probabilities(ours, scales[0]) - probabilities(theirs, scales[1]))
        for position, text in enumerate(texts_):
            a, b = ours[position], theirs[position]
            log_diff = float(np.abs(a - b).max())
            probability_diff = float(differences[position].max())
            items.append(
                ItemDifference(
                    query, text, position, a.tolist(), b.tolist(), log_diff, probability_diff
                )
            )
    largest = max(item.log_diff for item in items)
    probability_diffs = [item.probability_diff for item in items]
    return Comparison(
        second.client.server_url,
        tuple(items),
        largest,
        max(probability_diffs),
        float(np.mean(probability_diffs)),
        largest <= first.settings.compare_tolerance,
    )
