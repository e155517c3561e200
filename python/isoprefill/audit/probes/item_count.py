"""From one item to hundreds."""

import itertools

import numpy as np
from jaxtyping import Float64

from isoprefill.audit import texts
from isoprefill.audit.client import MiscountedError, Rejected, ServerError
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings

COUNTS = (1, 2, 10, 100, 500)


def item_count(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Do scores change with the number of items, or differ between an item's copies all over the list?"""
    target = texts.PLACES[0]
    fillers = list(itertools.islice(itertools.cycle(texts.FILLERS), settings.max_items))
    counts = sorted({min(count, settings.max_items) for count in COUNTS})
    alone = instrument.measure(texts.PLACE_QUERY, [target])[0]
    results, refused, effect = [], {}, 0.0
    for count in counts[1:]:
        items = [target, *fillers[: count - 2], target]
        try:
            scores = instrument.measure(texts.PLACE_QUERY, items)
        except MiscountedError:
            raise
        except (Rejected, ServerError) as error:  # long lists only, perhaps
            refused[str(count)] = str(error)
            continue
        first, last = difference(scores[0], alone), difference(scores[-1], alone)
        copies = range_of_copies(items, scores)
        effect = max(effect, first, last, copies)
        results.append(
            {"items": count, "first_diff": first, "last_diff": last, "copies_diff": copies}
        )
    if not results:
        raise Rejected(next(iter(refused.values())))
    return Measurement(effect, True, {"results_by_item_count": results, "refused_counts": refused})


def range_of_copies(items: list[str], scores: Float64[np.ndarray, "N L"]) -> float:
    """Largest difference between the scores of equal items."""
    places = {text: [i for i, item in enumerate(items) if item == text] for text in set(items)}
    return max(float(np.ptp(scores[of_text], axis=0).max()) for of_text in places.values())
