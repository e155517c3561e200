"""The same item several times in one list."""

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import as_json
from isoprefill.audit.settings import AuditSettings


def duplicated_item(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Do copies of an item in one list score differently?"""
    item, *others = texts.PLACES
    items = [item, others[0], item, item, others[1], item]
    scores = instrument.measure(texts.PLACE_QUERY, items)
    copies = [index for index, text in enumerate(items) if text == item]
    details = {"scores_of_copies": [as_json(scores[index]) for index in copies]}
    effect = max(difference(scores[index], scores[copies[0]]) for index in copies)
    return Measurement(effect, True, details)
