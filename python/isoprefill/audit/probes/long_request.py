"""A long query with long items: what a server computes in chunks or tiles, it may isolate only within one."""

import itertools

from isoprefill.audit import texts
from isoprefill.audit.client import MiscountedError, Rejected, ServerError
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings

ITEM_SHARE = 10  # an item has so many times fewer words than the query
LEAST_WORDS = 50


def long_request(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Do long items after a long query change each other's scores?"""
    words = settings.max_words
    refused: dict[str, str] = {}
    while words >= LEAST_WORDS:
        try:
            return _measured(instrument, words, refused)
        except MiscountedError:
            raise
        except (Rejected, ServerError) as error:  # too long for the model or the server
            refused[str(words)] = str(error)
            words //= 2
    raise Rejected(next(iter(refused.values()), f"max-words is {settings.max_words}"))


def _measured(instrument: Instrument, words: int, refused: dict[str, str]) -> Measurement:
    query = _text(words, 0)
    items = [_text(words // ITEM_SHARE, start) for start in (1, 2, 3)]
    changed = _text(words // ITEM_SHARE, 4)
    base = instrument.measure(query, items)
    tokens = instrument.prompt_tokens
    diffs = {
        "first_changed": difference(instrument.measure(query, [changed, *items[1:]])[1:], base[1:]),
        "last_changed": difference(instrument.measure(query, [*items[:2], changed])[:2], base[:2]),
        "reversed": difference(instrument.measure(query, items[::-1])[::-1], base),
    }
    details = {"words_of_query": words, "tokens": tokens, "diffs": diffs, "refused_words": refused}
    return Measurement(max(diffs.values()), True, details)


def _text(words: int, start: int) -> str:
    """So many words, from another one on."""
    return " ".join(itertools.islice(itertools.cycle(texts.STORY.split()), start, start + words))
