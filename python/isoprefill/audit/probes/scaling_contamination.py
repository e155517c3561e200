"""Test 3 of the plan in docs/isolation-investigation.md."""

import numpy as np

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import as_json
from isoprefill.audit.settings import AuditSettings

COUNTS = (0, 1, 5, 10, 20)


def scaling_contamination(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Does an item's score change with the number of complaints before it?"""
    counts = [count for count in COUNTS if count < settings.max_items]
    scores = [
        instrument.measure(texts.REVIEW_QUERY, [texts.COMPLAINT] * count + [texts.PRAISE])[-1]
        for count in counts
    ]
    details = {
        "results_by_prefix_count": [
            {"n_prefix": count, "score": as_json(score)}
            for count, score in zip(counts, scores, strict=True)
        ],
        "score_variance": float(np.var(scores, axis=0).max()),
    }
    return Measurement(max(difference(score, scores[0]) for score in scores), True, details)
