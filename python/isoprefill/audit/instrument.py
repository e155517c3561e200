"""What a difference must exceed to count: the server's noise is measured before anything is judged.

Three things change a score without any item seeing another:

- noise: the same request gives another score. Measured by repeating requests.
- rounding: another shape of the batch sums in another order. Measured on an item that others are added after: no causal
  model lets it see them, isolated or not.
- nothing else. So a change of a neighbour's content that keeps the number of tokens must change exactly nothing,
  beyond noise.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from isoprefill.audit import texts
from isoprefill.audit.client import Rejected, ScoreClient, TextOrTokens

MARGIN = 3.0  # an effect must exceed noise and rounding this many times
LARGEST_ROUNDING = 0.05  # a larger change is not taken for rounding


@dataclasses.dataclass(frozen=True, slots=True)
class Noise:
    """What changes a score although nothing leaks, as differences of log scores.

    Attributes:
        spread: largest range of a score over repeats of one request.
        rounding: largest change of a score when items are added after it.
    """

    spread: float
    rounding: float


class Instrument:
    """Measures scores, and says what counts as an effect."""

    def __init__(
        self,
        client: ScoreClient,
        *,
        repeats: int,
        tolerance: float,
    ) -> None:
        """Measures nothing yet: `calibrate` comes first.

        Args:
            client: the server.
            repeats: requests for each measurement, if the server is not deterministic.
            tolerance: an effect must exceed it in any case.
        """
        self.client = client
        self.repeats = repeats
        self.tolerance = tolerance
        self.noise = Noise(0.0, 0.0)
        self.model = ""

    def calibrate(self) -> Noise:
        """Measures noise and rounding.

        Raises:
            ServerError: there is no server, or its answers are not what the API says.
            Rejected: the server does not take an ordinary request.
        """
        few, many = list(texts.CAPITALS), [*texts.CAPITALS, *texts.PLACES, *texts.CAPITALS]
        samples = [
            np.stack([self.once(texts.CAPITAL_QUERY, items) for _ in range(self.repeats)])
            for items in (few, many)
        ]
        spread = max(float(np.ptp(sample, axis=0).max()) for sample in samples)
        self.noise = Noise(spread, 0.0)
        rounding = difference(np.median(samples[0], axis=0)[0], np.median(samples[1], axis=0)[0])
        alone = self.measure(texts.CAPITAL_QUERY, few[:1])[0]
        rounding = max(rounding, difference(alone, np.median(samples[0], axis=0)[0]))
        self.noise = Noise(spread, min(rounding, LARGEST_ROUNDING))
        return self.noise

    def threshold(self, *, shape_changes: bool) -> float:
        """What an effect must exceed.

        Args:
            shape_changes: the requests that are compared differ in number or length of items.
        """
        rounding = self.noise.rounding if shape_changes else 0.0
        return max(self.tolerance, MARGIN * self.noise.spread, MARGIN * rounding)

    def once(
        self, query: TextOrTokens, items: Sequence[TextOrTokens]
    ) -> Float64[np.ndarray, "N L"]:
        """Log scores of one request."""
        answer = self.client.score(query, items)
        self.model = answer.model
        return answer.log_scores

    def measure(
        self, query: TextOrTokens, items: Sequence[TextOrTokens]
    ) -> Float64[np.ndarray, "N L"]:
        """Log scores: the median over the repeats, or of one request if the server is deterministic."""
        repeats = self.repeats if self.noise.spread else 1
        return np.median([self.once(query, items) for _ in range(repeats)], axis=0)

    def same_number_of_tokens(
        self, query: str, items: Sequence[str], others: Sequence[str]
    ) -> bool:
        """Whether the server counts as many tokens for both lists; False if it does not say."""
        try:
            first, second = (self.client.score(query, one).prompt_tokens for one in (items, others))
        except Rejected:
            return False
        return first is not None and first == second


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Largest absolute difference of log scores."""
    return float(np.abs(first - second).max())
