"""Measures scores, and first of all the noise that a difference must exceed to count.

Three things change a score without any item seeing another:

- noise: the same request gives another score. Measured by repeating requests.
- rounding: a batch of another shape sums in another order. Measured on an item after which others are added: no causal
  model lets it see them, isolated or not.
- nothing else. So a neighbour's new content with the same number of tokens must change nothing beyond noise.

And one thing must change a score: the item's own text. Scores that are all alike, or smaller than the digits that the
server sends can show, would hide every leak.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np

from isoprefill.audit import texts
from isoprefill.audit.client import Rejected, ScoreClient, TextOrTokens
from isoprefill.audit.log_scores import LOG_FLOOR, LogScores
from isoprefill.audit.settings import AuditSettings

MARGIN = 3.0  # an effect must exceed this multiple of noise and rounding
LARGEST_ROUNDING = 0.05  # a larger change is not taken for rounding
LEAST_SIGNAL = 3.0  # other texts must change scores by this multiple of the threshold


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """How much log scores change although nothing leaks, and how much with the item's own text.

    Attributes:
        spread: the largest range of a score over repeats of one request.
        rounding: the largest change of a score when items are added after it.
        signal: the largest difference between two items of one list, in the list where it is smallest. Scores of
            log 0 do not count.
    """

    spread: float
    rounding: float
    signal: float


class Instrument:
    """Measures scores, and says which differences count as an effect."""

    def __init__(self, client: ScoreClient, settings: AuditSettings) -> None:
        """Measures nothing yet; call `calibrate` first."""
        self.client = client
        self.settings = settings
        self.calibration = Calibration(0.0, 0.0, 0.0)
        self.model = ""
        self.prompt_tokens: int | None = None  # of the last answer, as the server counts them

    def calibrate(self) -> None:
        """Measures noise, rounding and signal.

        Raises:
            ServerError: the server cannot be reached, or does not follow the API.
            Rejected: the server refuses an ordinary request.
        """
        few, many = list(texts.CAPITALS), [*texts.CAPITALS, *texts.PLACES, *texts.CAPITALS]
        samples = [
            np.stack([self.once(texts.CAPITAL_QUERY, items) for _ in range(self.settings.repeats)])
            for items in (few, many)
        ]
        spread = max(float(np.ptp(sample, axis=0).max()) for sample in samples)
        self.calibration = Calibration(spread, 0.0, 0.0)
        medians = [np.median(sample, axis=0) for sample in samples]
        alone = self.measure(texts.CAPITAL_QUERY, few[:1])[0]
        rounding = max(difference(other, medians[0][0]) for other in (medians[1][0], alone))
        lists = [medians[0]]
        with contextlib.suppress(Rejected):  # the probes report it
            lists.append(self.measure(texts.PLACE_QUERY, texts.PLACES))
        signal = min(map(_signal, lists))
        self.calibration = Calibration(spread, rounding, signal)

    def threshold(self, *, shape_changes: bool) -> float:
        """Returns what an effect must exceed.

        Args:
            shape_changes: the requests that are compared differ in number or length of items.
        """
        rounding = min(self.calibration.rounding, LARGEST_ROUNDING) if shape_changes else 0.0
        return max(self.settings.tolerance, MARGIN * self.calibration.spread, MARGIN * rounding)

    @property
    def sees_items(self) -> bool:
        """Whether scores depend on an item's own text; if not, they would not show a leak either."""
        return self.calibration.signal >= LEAST_SIGNAL * self.threshold(shape_changes=True)

    def once(self, query: TextOrTokens, items: Sequence[TextOrTokens]) -> LogScores:
        """Returns the log scores of one request."""
        answer = self.client.score(query, items)
        self.model = answer.model
        self.prompt_tokens = answer.prompt_tokens
        return answer.log_scores

    def measure(self, query: TextOrTokens, items: Sequence[TextOrTokens]) -> LogScores:
        """Returns log scores: medians over repeated requests, or of one request if the server is deterministic."""
        repeats = self.settings.repeats if self.calibration.spread else 1
        return np.median([self.once(query, items) for _ in range(repeats)], axis=0)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the largest absolute difference of log scores."""
    return float(np.abs(first - second).max())


def _signal(scores: LogScores) -> float:
    """Returns the largest difference between the scores of two items for one label."""
    above_floor = np.where(scores > LOG_FLOOR, scores, np.nan)
    labels = above_floor[:, np.isfinite(above_floor).any(axis=0)]
    return float((np.nanmax(labels, axis=0) - np.nanmin(labels, axis=0)).max(initial=0.0))
