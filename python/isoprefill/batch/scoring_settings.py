"""How a batch job scores: the model, and what is read of it. Travels to the actors, and into the manifest."""

import dataclasses
import math
from typing import Any

from isoprefill.execution.engine_settings import EngineSettings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings(EngineSettings):
    """The model and the scores.

    Attributes:
        labels: score P(label | query, item) for each of these tokens of text; empty: log P(item | query), or the logits
            of a classification model's classes.
        softmax, temperature, item_first: see `ScoreOptions`.
        deduplicate: score equal items of a query once.
    """

    labels: tuple[str, ...] = ()
    softmax: bool = False
    temperature: float | None = None
    item_first: bool = False
    deduplicate: bool = False

    def __post_init__(self) -> None:
        EngineSettings.__post_init__(self)  # a class with slots is another one than super() knows
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must differ, got {', '.join(map(repr, self.labels))}")
        if self.temperature is not None and not self.softmax:
            raise ValueError("temperature needs softmax")
        if self.temperature is not None and not (
            math.isfinite(self.temperature) and self.temperature > 0
        ):
            raise ValueError(f"temperature must be finite and above 0, got {self.temperature}")

    def lasting(self) -> dict[str, Any]:
        """Returns what changes scores, as JSON values: all but the number of threads and the size of the cache."""
        values = dataclasses.asdict(self)
        del values["threads"], values["prefix_cache_bytes"]
        return values | {"labels": list(self.labels)}
