"""The measurement of a probe, and the finding that follows from it."""

import dataclasses
from typing import Any, Literal

Verdict = Literal["isolated", "leak", "inconclusive", "rejected", "failed"]

COARSEST_THRESHOLD = 0.2  # above it, the absence of an effect shows nothing


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """The measurement of a probe."""

    effect: float  # the largest difference of log scores that should have been equal
    details: dict[str, Any] = dataclasses.field(default_factory=dict)  # more numbers, as JSON
    # The requests compared differ in number or length of items, so that rounding may differ.
    shape_changes: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The result of one probe.

    The verdict is "leak" if the effect exceeds the threshold; "inconclusive" if it does not, but the threshold is so
    high that this shows nothing; "rejected" if the server refuses the input; "failed" if it answered with a server
    error. `reason` says why it is one of the last two, or "inconclusive" despite an effect.
    """

    name: str
    question: str
    verdict: Verdict
    effect: float | None = None
    threshold: float | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    reason: str = ""

    @property
    def has_isolation(self) -> bool | None:
        """Whether this probe found isolation; None if it gave no answer."""
        return {"isolated": True, "leak": False}.get(self.verdict)


def judge(name: str, question: str, measurement: Measurement, threshold: float) -> Finding:
    """Compares an effect with its threshold."""
    verdict: Verdict = "isolated"
    if measurement.effect > threshold:
        verdict = "leak"
    elif threshold > COARSEST_THRESHOLD:
        verdict = "inconclusive"
    return Finding(name, question, verdict, measurement.effect, threshold, measurement.details)
