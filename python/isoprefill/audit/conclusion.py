"""What follows from all findings together."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from isoprefill.audit.finding import Finding

Verdict = Literal["ISOLATED", "PARTIAL", "NO_ISOLATION", "INCONCLUSIVE"]

EXIT_CODES: dict[Verdict, int] = {
    "ISOLATED": 0,
    "PARTIAL": 3,
    "NO_ISOLATION": 4,
    "INCONCLUSIVE": 5,
}
EXIT_SERVER_ERROR = 2
EXIT_DIFFERENT = 6  # isolated, but the server compared with has other scores


@dataclasses.dataclass(frozen=True, slots=True)
class Leak:
    """Item `source` changes item `target`'s score; counted from 0.

    `by` is "content" if a text of the same length does it, "length" if only a longer or shorter one does.
    """

    source: int
    target: int
    effect: float
    by: Literal["content", "length"]


@dataclasses.dataclass(frozen=True, slots=True)
class Conclusion:
    """What follows from all findings.

    Attributes:
        verdict: ISOLATED: no probe found an effect. NO_ISOLATION: every item sees all items before it. PARTIAL: some
            effect, but not all of these. INCONCLUSIVE: too noisy to tell, too little of it could be asked, or scores
            do not even show an item's own text.
        explanation: the pattern of the leaks in words.
        leaks: which item influences which.
    """

    verdict: Verdict
    explanation: str
    leaks: tuple[Leak, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """The largest requests that the server answered.

    Attributes:
        items: of one request.
        tokens: of one request as the server counts them, or None if it does not say.
    """

    items: int
    tokens: int | None

    def __str__(self) -> str:
        tokens = "" if self.tokens is None else f" and {self.tokens} tokens"
        return f"up to {self.items} items{tokens} in a request"


# Without these nothing can be said about a server that passes all others.
INDISPENSABLE = (
    "order_sensitivity",
    "same_length_mutation",
    "changed_length_mutation",
    "item_alone",
)

# These change the number of items before an item.
COUNTING = ("scaling_contamination", "position_in_list", "item_alone", "item_count")


def conclude(findings: Sequence[Finding], *, sees_items: bool, reach: Reach) -> Conclusion:
    """Draws the conclusion.

    Args:
        findings: of all probes.
        sees_items: whether scores show an item's own text (`Instrument.sees_items`).
        reach: what was asked.
    """
    by_name = {finding.name: finding for finding in findings}
    leaks = find_leaks(by_name)
    leaking = [finding.name for finding in findings if finding.verdict == "leak"]
    if leaking:
        content = {(leak.source, leak.target) for leak in leaks if leak.by == "content"}
        size = _num_items(by_name)
        earlier = {(i, j) for j in range(size) for i in range(j)}
        total = size > 1 and earlier <= content
        verdict: Verdict = "NO_ISOLATION" if total else "PARTIAL"
        return Conclusion(verdict, _explain(content, leaks, size, leaking), leaks)
    missing = [name for name in INDISPENSABLE if not _tells(by_name.get(name))]
    noisy = [finding.name for finding in findings if finding.verdict == "inconclusive"]
    if missing or noisy:
        reason = "the scores vary too much" if noisy else "the server refused the input"
        names = ", ".join(noisy or missing)
        return Conclusion("INCONCLUSIVE", f"Nothing follows from {names}: {reason}.", ())
    if not sees_items:
        reason = (
            "Scores hardly differ from item to item, or are too small for the digits that the server sends: they do "
            "not show what an item sees. Ask for other labels, or for log-probabilities."
        )
        return Conclusion("INCONCLUSIVE", reason, ())
    return Conclusion("ISOLATED", _cleared(findings, reach), ())


def _cleared(findings: Sequence[Finding], reach: Reach) -> str:
    """What an isolated server was cleared of, and what was not told."""
    coarsest = max(finding.threshold or 0.0 for finding in findings)
    silent = [f"{finding.name} ({finding.verdict})" for finding in findings if not _tells(finding)]
    told = (
        "No item's score depends on any other item, as far as was asked: "
        f"{reach}; effects above {coarsest:.2g} would have been seen."
    )
    return told if not silent else f"{told} Nothing was told by {', '.join(silent)}."


def find_leaks(by_name: dict[str, Finding]) -> tuple[Leak, ...]:
    """The pairs of items of which one influences the other, by the two mutation probes."""
    leaks: dict[tuple[int, int], Leak] = {}
    for name, by in (("same_length_mutation", "content"), ("changed_length_mutation", "length")):
        finding = by_name.get(name)
        if finding is None or finding.verdict != "leak" or finding.threshold is None:
            continue
        for source, row in enumerate(finding.details["influence"]):
            for target, effect in enumerate(row):
                if effect > finding.threshold and (source, target) not in leaks:
                    leaks[source, target] = Leak(source, target, effect, by)  # type: ignore[arg-type]
    return tuple(leaks[pair] for pair in sorted(leaks))


def _tells(finding: Finding | None) -> bool:
    return finding is not None and finding.has_isolation is not None


def _num_items(by_name: dict[str, Finding]) -> int:
    finding = by_name.get("same_length_mutation")
    return len(finding.details.get("influence", ())) if finding else 0


def _explain(
    content: set[tuple[int, int]], leaks: tuple[Leak, ...], size: int, leaking: list[str]
) -> str:
    earlier = {(i, j) for j in range(size) for i in range(j)}
    lengths = {(leak.source, leak.target) for leak in leaks if leak.by == "length"}
    if size and earlier <= content:
        later = " and the items after it" if content - earlier else ""
        return (
            f"Every item sees all items before it{later}: plain causal attention looks like this."
        )
    if content and content == {(0, j) for j in range(1, size)}:
        return "Item 1 leaks into every later item: it is taken for a part of the query."
    if content:
        pairs = ", ".join(f"{i + 1} into {j + 1}" for i, j in sorted(content))
        return f"Some items leak into others: {pairs}."
    if lengths:
        return (
            "No item sees another's content, but the lengths of other items change an item's score: positions do not "
            "restart at each item."
        )
    if leaking == ["concurrent_requests"]:
        return "Items of one request are isolated, but requests at the same time change each other's scores."
    if not set(leaking).isdisjoint(COUNTING):
        return (
            "No item sees another's content or length, but the number of other items changes an item's score: items "
            "see delimiters."
        )
    return f"An effect was found by {', '.join(leaking)} alone."
