"""Does an item's place among the others change its score?"""

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import as_json


def order_sensitivity(instrument: Instrument) -> Measurement:
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
    return Measurement(max(diffs.values()), details)


def position_in_list(instrument: Instrument) -> Measurement:
    """Does an item's place in the list change its score?"""
    item, *others = texts.PLACES
    scores = [
        instrument.measure(texts.PLACE_QUERY, [*others[:place], item, *others[place:]])[place]
        for place in range(len(others) + 1)
    ]
    details = {"scores_by_position": [as_json(score) for score in scores]}
    return Measurement(max(difference(score, scores[0]) for score in scores), details)


def duplicated_item(instrument: Instrument) -> Measurement:
    """Do copies of an item in one list score differently?"""
    item, *others = texts.PLACES
    items = [item, others[0], item, item, others[1], item]
    scores = instrument.measure(texts.PLACE_QUERY, items)
    copies = [scores[index] for index, text in enumerate(items) if text == item]
    details = {"scores_of_copies": [as_json(copy) for copy in copies]}
    return Measurement(max(difference(copy, copies[0]) for copy in copies), details)
