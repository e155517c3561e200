"""Test 2 of the plan in docs/isolation-investigation.md."""

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import as_json
from isoprefill.audit.settings import AuditSettings

NEUTRAL = "Hello world"
CONTAMINATING = "Paris is a beautiful city"


def content_contamination(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Does an item before that names the answer change the next item's score?"""
    target = texts.CAPITALS[0]
    neutral = instrument.measure(texts.CAPITAL_QUERY, [NEUTRAL, target])
    contaminated = instrument.measure(texts.CAPITAL_QUERY, [CONTAMINATING, target])
    effect = difference(neutral[1], contaminated[1])
    details = {
        "scores_neutral": {NEUTRAL: as_json(neutral[0]), target: as_json(neutral[1])},
        "scores_contaminated": {
            CONTAMINATING: as_json(contaminated[0]),
            target: as_json(contaminated[1]),
        },
        "paris_diff": effect,
    }
    return Measurement(effect, True, details)
