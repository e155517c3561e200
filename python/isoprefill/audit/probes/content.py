"""Does what stands in one item change the scores of the others?"""

from collections.abc import Sequence

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import as_json

NEUTRAL = "Hello world"
CONTAMINATING = "Paris is a beautiful city"


def content_contamination(instrument: Instrument) -> Measurement:
    """Does an earlier item that names the answer change the next item's score?"""
    target = texts.CAPITALS[0]
    neutral = instrument.measure(texts.CAPITAL_QUERY, [NEUTRAL, target])
    contaminated = instrument.measure(texts.CAPITAL_QUERY, [CONTAMINATING, target])
    effect = difference(neutral[1], contaminated[1])
    details = {
        "scores_neutral": {NEUTRAL: as_json(neutral[0]), target: as_json(neutral[1])},
        "scores_contaminated": {
            CONTAMINATING: as_json(contaminated[0]),
            target: as_json(contaminated[1]),
        },
        "paris_diff": effect,
    }
    return Measurement(effect, details)


def same_length_mutation(instrument: Instrument) -> Measurement:
    """Does another text of the same length in an item's place change the others' scores?"""
    influence, confirmed = _influence(instrument, texts.PLACES, texts.SAME_LENGTH)
    details = _details(influence, texts.SAME_LENGTH)
    details["same_number_of_tokens_confirmed"] = confirmed
    return Measurement(max(map(max, influence)), details, shape_changes=not confirmed)


def changed_length_mutation(instrument: Instrument) -> Measurement:
    """Does a longer or shorter text in an item's place change the others' scores?"""
    influence, _ = _influence(instrument, texts.PLACES, texts.OTHER_LENGTH)
    return Measurement(max(map(max, influence)), _details(influence, texts.OTHER_LENGTH))


def one_token_items(instrument: Instrument) -> Measurement:
    """Do items of a single token change each other's scores?"""
    influence, _ = _influence(instrument, texts.ONE_TOKEN, texts.ONE_TOKEN_OTHERS)
    diffs = [effect for i, row in enumerate(influence) for j, effect in enumerate(row) if i != j]
    return Measurement(max(diffs), {"items": list(texts.ONE_TOKEN), "diffs": diffs})


def _influence(
    instrument: Instrument, items: Sequence[str], changed: Sequence[str]
) -> tuple[list[list[float]], bool]:
    """Changes every item in turn, and looks at the others.

    Returns:
        influence[i][j]: how much item j's score changes when item i's text does, 0 on the diagonal; and whether the
        server counts the same number of tokens in every list, False if it does not say.
    """
    base = instrument.measure(texts.PLACE_QUERY, items)
    tokens = [instrument.prompt_tokens]
    influence = []
    for index, text in enumerate(changed):
        scores = instrument.measure(texts.PLACE_QUERY, [*items[:index], text, *items[index + 1 :]])
        tokens.append(instrument.prompt_tokens)
        row = [difference(*pair) for pair in zip(scores, base, strict=True)]
        influence.append([*row[:index], 0.0, *row[index + 1 :]])
    return influence, tokens[0] is not None and len(set(tokens)) == 1


def _details(influence: list[list[float]], changed: Sequence[str]) -> dict[str, object]:
    return {"items": list(texts.PLACES), "changed_to": list(changed), "influence": influence}
