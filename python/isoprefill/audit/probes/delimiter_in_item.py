"""A delimiter inside an item, which shifts every boundary after it in a server that looks for it in the tokens."""

from isoprefill.audit import texts
from isoprefill.audit.client import Rejected, TextOrTokens
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings

# Ids that every vocabulary has, and that are no special tokens in common ones.
TOKEN_QUERY = [40, 41, 42, 43, 44, 45]
TOKEN_ITEMS = [[50, 51, 52], [53, 54, 55], [56, 57]]


def delimiter_in_item(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Does a delimiter inside an item change the other items' scores?"""
    first, middle, last = texts.PLACES[:3]
    cases: dict[str, tuple[TextOrTokens, list[TextOrTokens], TextOrTokens]] = {
        text: (texts.PLACE_QUERY, [first, middle, last], f"{middle}{text}{middle}")
        for text in settings.delimiter_texts
    }
    if (token := settings.delimiter_token_id) is not None:
        smuggled = [TOKEN_ITEMS[1][0], token, TOKEN_ITEMS[1][0]]
        cases[f"token {token}"] = (TOKEN_QUERY, list(TOKEN_ITEMS), smuggled)
    diffs, refused = {}, {}
    for name, (query, items, item) in cases.items():
        base = instrument.measure(query, items)
        try:
            scores = instrument.measure(query, [items[0], item, items[2]])
        except Rejected as error:
            refused[name] = str(error)
            continue
        diffs[name] = max(difference(base[0], scores[0]), difference(base[2], scores[2]))
    if not diffs:
        raise Rejected(next(iter(refused.values()), "no delimiter was given"))
    return Measurement(max(diffs.values()), True, {"diffs": diffs, "refused": refused})
