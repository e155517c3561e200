"""What a check found."""

import dataclasses
from typing import Literal

Status = Literal["ok", "note", "skipped", "failed"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One row of the report.

    Attributes:
        name: what was looked at.
        status: "note" is worth knowing and no fault; "skipped" could not be looked at; "failed" is a fault.
        detail: what was found, in one line.
        advice: what to do about it; every failure has some.
        numbers: what was measured, for those who read the report.
    """

    name: str
    status: Status
    detail: str
    advice: str = ""
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status == "failed" and not self.advice:
            raise ValueError(f"advice of the failed check {self.name!r} must not be empty")
