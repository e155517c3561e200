"""Does the number of items, or the length of a request, change a score?"""

import itertools
from collections.abc import Sequence

import numpy as np

from isoprefill.audit import texts
from isoprefill.audit.client import MiscountedError, Rejected, ServerError
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import LogScores, as_json

COMPLAINTS = (0, 1, 5, 10, 20)
ITEM_COUNTS = (1, 2, 10, 100, 500)
WORDS_RATIO = 10  # words of the query for each word of an item
LEAST_WORDS = 50


def scaling_contamination(instrument: Instrument) -> Measurement:
    """Does an item's score change with the number of complaints before it?"""
    counts = [count for count in COMPLAINTS if count < instrument.settings.max_items]
    scores = [
        instrument.measure(texts.REVIEW_QUERY, [texts.COMPLAINT] * count + [texts.PRAISE])[-1]
        for count in counts
    ]
    details = {
        "results_by_prefix_count": [
            {"n_prefix": count, "score": as_json(score)}
            for count, score in zip(counts, scores, strict=True)
        ],
        "score_variance": float(np.var(scores, axis=0).max()),
    }
    return Measurement(max(difference(score, scores[0]) for score in scores), details)


def item_alone(instrument: Instrument) -> Measurement:
    """Does an item score in a list as it does alone?"""
    together = instrument.measure(texts.PLACE_QUERY, texts.PLACES)
    diffs = [
        difference(instrument.measure(texts.PLACE_QUERY, [item])[0], together[index])
        for index, item in enumerate(texts.PLACES)
    ]
    return Measurement(max(diffs), {"diffs_by_position": diffs})


def item_count(instrument: Instrument) -> Measurement:
    """Do scores change with the number of items, or differ between copies of an item all over the list?"""
    target, most = texts.PLACES[0], instrument.settings.max_items
    fillers = list(itertools.islice(itertools.cycle(texts.FILLERS), most))
    counts = sorted({min(count, most) for count in ITEM_COUNTS})
    alone = instrument.measure(texts.PLACE_QUERY, [target])[0]
    results, refused, effect = [], {}, 0.0
    for count in counts[1:]:
        items = [target, *fillers[: count - 2], target]
        try:
            scores = instrument.measure(texts.PLACE_QUERY, items)
        except MiscountedError:
            raise
        except (Rejected, ServerError) as error:  # perhaps only of long lists
            refused[str(count)] = str(error)
            continue
        first, last = difference(scores[0], alone), difference(scores[-1], alone)
        copies = _range_of_copies(items, scores)
        effect = max(effect, first, last, copies)
        results.append(
            {"items": count, "first_diff": first, "last_diff": last, "copies_diff": copies}
        )
    if not results:
        raise Rejected(next(iter(refused.values())))
    return Measurement(effect, {"results_by_item_count": results, "refused_counts": refused})


def _range_of_copies(items: Sequence[str], scores: LogScores) -> float:
    """Returns the largest difference between the scores of equal items."""
    places = {text: [i for i, item in enumerate(items) if item == text] for text in set(items)}
    return max(float(np.ptp(scores[copies], axis=0).max()) for copies in places.values())


def long_request(instrument: Instrument) -> Measurement:
    """Do long items after a long query change each other's scores?"""
    # A server that computes in chunks or tiles may isolate only within one.
    words = instrument.settings.max_words
    refused: dict[str, str] = {}
    while words >= LEAST_WORDS:
        try:
            return _measure_long_request(instrument, words, refused)
        except MiscountedError:
            raise
        except (Rejected, ServerError) as error:  # too long for the model or the server
            refused[str(words)] = str(error)
            words //= 2
    raise Rejected(next(iter(refused.values()), f"max-words is {instrument.settings.max_words}"))


def _measure_long_request(
    instrument: Instrument, words: int, refused: dict[str, str]
) -> Measurement:
    query = _story(words, 0)
    *items, changed = (_story(words // WORDS_RATIO, start) for start in (1, 2, 3, 4))
    base = instrument.measure(query, items)
    tokens = instrument.prompt_tokens
    diffs = {
        "first_changed": difference(instrument.measure(query, [changed, *items[1:]])[1:], base[1:]),
        "last_changed": difference(instrument.measure(query, [*items[:2], changed])[:2], base[:2]),
        "reversed": difference(instrument.measure(query, items[::-1])[::-1], base),
    }
    details = {"words_of_query": words, "tokens": tokens, "diffs": diffs, "refused_words": refused}
    return Measurement(max(diffs.values()), details)


def _story(words: int, start: int) -> str:
    """Returns a number of words of an endless story, from the word `start` on."""
    return " ".join(itertools.islice(itertools.cycle(texts.STORY.split()), start, start + words))
