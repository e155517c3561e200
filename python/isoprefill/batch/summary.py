"""How far a job is, and what came of it."""

import dataclasses
import json
from typing import Any, Literal

from isoprefill.batch.work_counts import WorkCounts

Phase = Literal["shuffling", "scoring"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a phase is.

    Attributes:
        phase: which; shuffling counts units of the input, scoring counts items.
        done, total: of them, with what earlier runs did.
        done_now: by this run.
        errors: items without a score.
        seconds: that the phase has taken in this run.
    """

    phase: Phase
    done: int
    total: int
    done_now: int
    errors: int
    seconds: float

    @property
    def rate(self) -> float:
        """How many a second this run does."""
        return self.done_now / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None: nothing is known yet."""
        return (self.total - self.done) / self.rate if self.rate else None

    def as_json(self) -> dict[str, Any]:
        left = self.seconds_left
        return dataclasses.asdict(self) | {
            "rate": round(self.rate, 3),
            "seconds": round(self.seconds, 3),
            "seconds_left": None if left is None else round(left, 1),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a job did.

    Attributes:
        counts: of the whole job, whichever run did it.
        blocks: files of the output.
        items_begun_again: items of blocks that were begun more than once, as often as they were begun again.
        items_now: scored by the last run.
        seconds_now: that its scoring took, with the start of the replicas.
        seconds_shuffling: that its shuffle and plan took.
        replicas: of that run.
    """

    counts: WorkCounts
    blocks: int
    items_begun_again: int
    items_now: int
    seconds_now: float
    seconds_shuffling: float
    replicas: int

    @property
    def items_per_second(self) -> float:
        """Of the last run."""
        return self.items_now / self.seconds_now if self.seconds_now > 0 else 0.0

    @property
    def items_per_replica_second(self) -> float:
        """Of the time in which replicas had a block, whichever run it was."""
        return self.counts.items / self.counts.seconds if self.counts.seconds > 0 else 0.0

    @property
    def query_share(self) -> float:
        """Query tokens computed, of those that scoring item by item would compute."""
        given = self.counts.query_tokens
        return self.counts.query_tokens_computed / given if given else 0.0

    def as_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return (
            values.pop("counts")
            | values
            | {
                "items_per_second": round(self.items_per_second, 3),
                "items_per_replica_second": round(self.items_per_replica_second, 3),
                "query_share": round(self.query_share, 6),
            }
        )

    def text(self) -> str:
        return json.dumps(self.as_json(), indent=1)

    @classmethod
    def parse(cls, text: str) -> "Summary":
        value = json.loads(text)
        names = {field.name for field in dataclasses.fields(WorkCounts)}
        own = {field.name for field in dataclasses.fields(cls)} - {"counts"}
        return cls(
            counts=WorkCounts(**{name: value[name] for name in names}),
            **{name: value[name] for name in own},
        )
