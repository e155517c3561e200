"""Does an item that a server may trip over change the scores of the others?"""

from isoprefill.audit import texts
from isoprefill.audit.client import MiscountedError, Rejected, ServerError, TextOrTokens
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import LOG_FLOOR
from isoprefill.audit.settings import AuditSettings

# Ids that every vocabulary has, and that are no special tokens in common ones.
TOKEN_QUERY = [40, 41, 42, 43, 44, 45]
TOKEN_ITEMS = [[50, 51, 52], [53, 54, 55], [56, 57]]


def empty_item(instrument: Instrument) -> Measurement:
    """Does an empty item between two others change their scores?"""
    first, last = texts.PLACES[:2]
    without = instrument.measure(texts.PLACE_QUERY, [first, last])
    with_empty = instrument.measure(texts.PLACE_QUERY, [first, "", last])
    return Measurement(difference(without, with_empty[[0, 2]]))


def delimiter_in_item(instrument: Instrument) -> Measurement:
    """Does a delimiter inside an item change the other items' scores?"""
    # It shifts every later boundary in a server that finds its delimiters by looking at the tokens.
    diffs: dict[str, float] = {}
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    miscounted: dict[str, str] = {}
    for name, (query, items, item) in _cases(instrument.settings).items():
        try:
            base = instrument.measure(query, items)
            scores = instrument.measure(query, [items[0], item, items[2]])
        except Rejected as error:
            refused[name] = str(error)
        except MiscountedError as error:
            # The item was taken for several, so no score is the right one.
            miscounted[name] = str(error)
            diffs[name] = -LOG_FLOOR
        except ServerError as error:
            failed[name] = str(error)
        else:
            diffs[name] = difference(base[[0, 2]], scores[[0, 2]])
    if not diffs:
        if failed:
            raise ServerError(next(iter(failed.values())))
        raise Rejected(next(iter(refused.values()), "no delimiter was given"))
    details = {"diffs": diffs, "refused": refused, "failed": failed, "miscounted": miscounted}
    return Measurement(max(diffs.values()), details)


def _cases(
    settings: AuditSettings,
) -> dict[str, tuple[TextOrTokens, list[TextOrTokens], TextOrTokens]]:
    """Returns by the delimiter's name a query, three items, and what takes the middle item's place."""
    items: list[TextOrTokens] = list(texts.PLACES[:3])
    cases: dict[str, tuple[TextOrTokens, list[TextOrTokens], TextOrTokens]] = {
        text: (texts.PLACE_QUERY, items, f"{items[1]}{text}{items[1]}")
        for text in settings.delimiter_texts
    }
    if (token := settings.delimiter_token_id) is not None:
        smuggled = [TOKEN_ITEMS[1][0], token, TOKEN_ITEMS[1][0]]
        cases[f"token {token}"] = (TOKEN_QUERY, list(TOKEN_ITEMS), smuggled)
    return cases
