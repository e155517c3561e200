"""Which item influences which: every item is changed in turn, and all others are looked at."""

from collections.abc import Sequence

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings


def same_length_mutation(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Does another text of the same length in an item's place change the others' scores?"""
    influence, confirmed = influence_of_changes(instrument, texts.SAME_LENGTH)
    details = _details(influence, texts.SAME_LENGTH)
    details["same_number_of_tokens_confirmed"] = confirmed
    return Measurement(_largest(influence), not confirmed, details)


def changed_length_mutation(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Does a longer or shorter text in an item's place change the others' scores?"""
    influence, _ = influence_of_changes(instrument, texts.OTHER_LENGTH)
    return Measurement(_largest(influence), True, _details(influence, texts.OTHER_LENGTH))


def influence_of_changes(
    instrument: Instrument, changed: Sequence[str]
) -> tuple[list[list[float]], bool]:
    """How much items change each other's scores, and whether every change kept the number of tokens.

    Returns:
        influence[i][j]: how much item j's score changes when item i's text does, 0 on the diagonal; and whether the
        server counts as many tokens in every list, False if it does not say.
    """
    base = instrument.measure(texts.PLACE_QUERY, texts.PLACES)
    tokens = [instrument.prompt_tokens]
    influence = []
    for index, text in enumerate(changed):
        items = [*texts.PLACES[:index], text, *texts.PLACES[index + 1 :]]
        scores = instrument.measure(texts.PLACE_QUERY, items)
        tokens.append(instrument.prompt_tokens)
        influence.append(
            [
                0.0 if other == index else difference(scores[other], base[other])
                for other in range(len(items))
            ]
        )
    return influence, tokens[0] is not None and len(set(tokens)) == 1


def _largest(influence: list[list[float]]) -> float:
    return max(map(max, influence))


def _details(influence: list[list[float]], changed: Sequence[str]) -> dict[str, object]:
    return {"items": list(texts.PLACES), "changed_to": list(changed), "influence": influence}
