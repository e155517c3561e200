"""Every item of a list, in a request of its own."""

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings


def item_alone(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Does an item score in a list as it does alone?"""
    together = instrument.measure(texts.PLACE_QUERY, texts.PLACES)
    diffs = [
        difference(instrument.measure(texts.PLACE_QUERY, [item])[0], together[index])
        for index, item in enumerate(texts.PLACES)
    ]
    return Measurement(max(diffs), True, {"diffs_by_position": diffs})
