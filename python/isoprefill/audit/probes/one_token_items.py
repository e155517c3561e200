"""The shortest items."""

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings


def one_token_items(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Do items of a single token change each other's scores?"""
    items, others = texts.ONE_TOKEN, texts.ONE_TOKEN_OTHERS
    base = instrument.measure(texts.PLACE_QUERY, items)
    diffs = []
    for index, text in enumerate(others):
        changed = [*items[:index], text, *items[index + 1 :]]
        scores = instrument.measure(texts.PLACE_QUERY, changed)
        diffs += [
            difference(scores[other], base[other]) for other in range(len(items)) if other != index
        ]
    return Measurement(max(diffs), True, {"items": list(items), "diffs": diffs})
