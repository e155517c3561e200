"""Test 1 of the plan in docs/isolation-investigation.md."""

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import as_json
from isoprefill.audit.settings import AuditSettings


def order_sensitivity(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Does the order of the items change their scores?"""
    items = texts.CAPITALS
    forward = instrument.measure(texts.CAPITAL_QUERY, items)
    backward = instrument.measure(texts.CAPITAL_QUERY, items[::-1])[::-1]
    diffs = {item: difference(forward[i], backward[i]) for i, item in enumerate(items)}
    details = {
        "scores_abc": {item: as_json(forward[i]) for i, item in enumerate(items)},
        "scores_cba": {item: as_json(backward[i]) for i, item in enumerate(items)},
        "diffs": diffs,
        "max_diff": max(diffs.values()),
    }
    return Measurement(max(diffs.values()), True, details)
