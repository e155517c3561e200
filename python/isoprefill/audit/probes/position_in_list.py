"""An item at every place of a list."""

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import as_json
from isoprefill.audit.settings import AuditSettings


def position_in_list(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Does an item's place in the list change its score?"""
    others = texts.PLACES[1:]
    scores = [
        instrument.measure(texts.PLACE_QUERY, [*others[:place], texts.PLACES[0], *others[place:]])[
            place
        ]
        for place in range(len(others) + 1)
    ]
    details = {"scores_by_position": [as_json(score) for score in scores]}
    return Measurement(max(difference(score, scores[0]) for score in scores), True, details)
