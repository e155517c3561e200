"""How a batch job scores: the model, and what is read of it. Travels to the actors, and into the manifest."""

import dataclasses
import math
from typing import Any, Literal

from isoprefill.modes import AlgorithmChoice, Backend


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings:
    """The model and the scores.

    Attributes:
        model, dtype, adapter, attention, threads, prefix_cache_bytes: see `ScoringEngine.from_pretrained`.
        mesh: as text, such as "data=2,tensor=4"; None is one device.
        algorithm: see `ScoringEngine.score`.
        labels: score P(label | query, item) for each of these tokens of text; empty: log P(item | query), or the logits
            of a classification model's classes.
        softmax, temperature, item_first: see `ScoreOptions`.
        deduplicate: score equal items of a query once.
    """

    model: str = "smollm2-135m"
    dtype: Literal["float32", "bfloat16"] = "float32"
    adapter: str | None = None
    attention: Backend = "auto"
    threads: int | None = None
    prefix_cache_bytes: int | None = None
    mesh: str | None = None
    algorithm: AlgorithmChoice = "auto"
    labels: tuple[str, ...] = ()
    softmax: bool = False
    temperature: float | None = None
    item_first: bool = False
    deduplicate: bool = False

    def __post_init__(self) -> None:
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
