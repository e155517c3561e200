"""Draws a conclusion from all findings together."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

from isoprefill.audit import texts
from isoprefill.audit.finding import Finding

Verdict = Literal["ISOLATED", "PARTIAL", "NO_ISOLATION", "INCONCLUSIVE"]

EXIT_CODES: dict[Verdict, int] = {
    "ISOLATED": 0,
    "PARTIAL": 3,
    "NO_ISOLATION": 4,
    "INCONCLUSIVE": 5,
}
EXIT_DIFFERENT = 6  # isolated, but the other server has other scores


@dataclasses.dataclass(frozen=True, slots=True)
class Leak:
    """Item `source` changes the score of item `target`; both are counted from 0.

    `by` is "content" if a text of the same length changes it, "length" if only a longer or shorter text does.
    """

    source: int
    target: int
    effect: float
    by: Literal["content", "length"]


@dataclasses.dataclass(frozen=True, slots=True)
class Conclusion:
    """The conclusion of an audit.

    Attributes:
        verdict: ISOLATED: no probe found an effect. NO_ISOLATION: every item sees all items before it. PARTIAL: some
            effect, but not all of these. INCONCLUSIVE: scores are too noisy, the server refused too much, or scores do
            not depend even on the item's own text.
        explanation: the pattern of the leaks in words.
        leaks: which item changes the score of which.
    """

    verdict: Verdict
    explanation: str
    leaks: tuple[Leak, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


# Without an answer to each of these a server is not cleared.
INDISPENSABLE = (
    "order_sensitivity",
    "same_length_mutation",
    "changed_length_mutation",
    "item_alone",
)

# What these change of another item, in the order in which they run.
MUTATIONS: dict[str, Literal["content", "length"]] = {
    "same_length_mutation": "content",
    "changed_length_mutation": "length",
}

# These change the number of items before an item.
COUNTING = ("scaling_contamination", "position_in_list", "item_alone", "item_count")


def conclude(
    findings: Sequence[Finding], *, sees_items: bool, most_items: int, most_tokens: int | None
) -> Conclusion:
    """Draws the conclusion.

    Args:
        findings: of all probes.
        sees_items: whether scores show an item's own text (`Instrument.sees_items`).
        most_items: of one request that the server answered.
        most_tokens: likewise, as the server counts them; None if it does not say.
    """
    leaking = [finding.name for finding in findings if finding.verdict == "leak"]
    if leaking:
        leaks = _find_leaks(findings)
        verdict, explanation = _pattern(leaks, leaking)
        return Conclusion(verdict, explanation, leaks)
    telling = {finding.name for finding in findings if finding.has_isolation is not None}
    missing = [name for name in INDISPENSABLE if name not in telling]
    noisy = [finding.name for finding in findings if finding.verdict == "inconclusive"]
    if missing or noisy:
        reason = "the scores vary too much" if noisy else "the server refused the input"
        names = ", ".join(noisy or missing)
        return Conclusion("INCONCLUSIVE", f"No answer from {names}: {reason}.", ())
    if not sees_items:
        reason = (
            "Scores hardly differ from item to item, or are smaller than the digits that the server sends can show, "
            "so a leak would not show either. Use other labels, or log-probabilities."
        )
        return Conclusion("INCONCLUSIVE", reason, ())
    return Conclusion("ISOLATED", _cleared(findings, most_items, most_tokens), ())


def _cleared(findings: Sequence[Finding], most_items: int, most_tokens: int | None) -> str:
    """Says what an isolated server was cleared of, and which probes gave no answer."""
    coarsest = max(finding.threshold or 0.0 for finding in findings)
    silent = [
        f"{finding.name} ({finding.verdict})"
        for finding in findings
        if finding.has_isolation is None
    ]
    tokens = "" if most_tokens is None else f" and {most_tokens} tokens"
    told = (
        "No item's score was found to depend on another item. The largest request had "
        f"{most_items} items{tokens}; an effect above {coarsest:.2g} would have been found."
    )
    return told if not silent else f"{told} No answer came from {', '.join(silent)}."


def _find_leaks(findings: Sequence[Finding]) -> tuple[Leak, ...]:
    """Returns the pairs of items of which one influences the other, by the two mutation probes."""
    leaks: dict[tuple[int, int], Leak] = {}
    for finding in findings:
        by = MUTATIONS.get(finding.name)
        if by is None or finding.verdict != "leak" or finding.threshold is None:
            continue
        for source, row in enumerate(finding.details["influence"]):
            for target, effect in enumerate(row):
                if effect > finding.threshold:
                    leaks.setdefault((source, target), Leak(source, target, effect, by))
    return tuple(leaks[pair] for pair in sorted(leaks))


def _pattern(leaks: Sequence[Leak], leaking: Sequence[str]) -> tuple[Verdict, str]:
    """Returns the verdict on a server with these leaks, and says what they have in common."""
    content = {(leak.source, leak.target) for leak in leaks if leak.by == "content"}
    earlier = set(itertools.combinations(range(len(texts.PLACES)), 2))
    if earlier <= content:
        later = " and the items after it" if content - earlier else ""
        return "NO_ISOLATION", (
            f"Every item sees all items before it{later}, as with plain causal attention."
        )
    return "PARTIAL", _partial_pattern(content, leaks, leaking)


def _partial_pattern(
    content: set[tuple[int, int]], leaks: Sequence[Leak], leaking: Sequence[str]
) -> str:
    if content == {(0, j) for j in range(1, len(texts.PLACES))}:
        return "Item 1 leaks into every later item: the server treats it as a part of the query."
    if content:
        pairs = ", ".join(f"{i + 1} into {j + 1}" for i, j in sorted(content))
        return f"Some items leak into others: {pairs}."
    if leaks:
        return (
            "No item sees the content of another, but the lengths of other items change its score: positions do not "
            "restart at each item."
        )
    if leaking == ["concurrent_requests"]:
        return "Items of one request are isolated, but simultaneous requests change each other's scores."
    if not set(leaking).isdisjoint(COUNTING):
        return (
            "No item sees the content or length of another, but the number of other items changes its score: items "
            "see delimiters."
        )
    return f"Only {', '.join(leaking)} found an effect."
