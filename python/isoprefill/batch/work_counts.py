"""What a block, or a whole job, took."""

import dataclasses
from typing import Any


@dataclasses.dataclass(slots=True)
class WorkCounts:
    """Counts that add up.

    Attributes:
        rows: of the input.
        items: in them; as many, unless a row holds a list.
        errors: items that got an error instead of a score.
        items_computed: what the engine scored; less than the rest with `deduplicate`.
        item_tokens: of these.
        query_tokens: what scoring these one by one would compute of their queries.
        query_tokens_computed: what was computed of them.
        seconds: that blocks took, added up over all replicas: reading, scoring and writing.
        cpu_seconds: of their processes meanwhile.
    """

    rows: int = 0
    items: int = 0
    errors: int = 0
    items_computed: int = 0
    item_tokens: int = 0
    query_tokens: int = 0
    query_tokens_computed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: "WorkCounts") -> "WorkCounts":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return WorkCounts(*(one + two for one, two in pairs))

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
