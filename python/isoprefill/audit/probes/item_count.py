"""From one item to hundreds."""

import itertools

from isoprefill.audit import texts
from isoprefill.audit.client import Rejected
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings

COUNTS = (1, 2, 10, 100, 500)


def item_count(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Do the first and the last item's scores change with the number of items?"""
    target = texts.PLACES[0]
    fillers = list(itertools.islice(itertools.cycle(texts.FILLERS), settings.max_items))
    counts = sorted({min(count, settings.max_items) for count in COUNTS})
    alone = instrument.measure(texts.PLACE_QUERY, [target])[0]
    results, refused, effect = [], {}, 0.0
    for count in counts[1:]:
        items = [target, *fillers[: count - 2], target]
        try:
            scores = instrument.measure(texts.PLACE_QUERY, items)
        except Rejected as error:
            refused[str(count)] = str(error)
            continue
        first, last = difference(scores[0], alone), difference(scores[-1], alone)
        effect = max(effect, first, last)
        results.append({"items": count, "first_diff": first, "last_diff": last})
    if not results:
        raise Rejected(next(iter(refused.values())))
    return Measurement(effect, True, {"results_by_item_count": results, "refused_counts": refused})
