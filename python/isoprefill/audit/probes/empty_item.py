"""An item without tokens."""

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings


def empty_item(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Does an empty item between two others change their scores?"""
    first, last = texts.PLACES[:2]
    without = instrument.measure(texts.PLACE_QUERY, [first, last])
    with_empty = instrument.measure(texts.PLACE_QUERY, [first, "", last])
    effect = max(
        difference(without[0], with_empty[0]),
        difference(without[1], with_empty[2]),
    )
    return Measurement(effect, True)
