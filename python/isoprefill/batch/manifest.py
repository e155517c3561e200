"""What a job is, written into its output directory, so that only the same job continues there."""

import dataclasses
import hashlib
import json
from typing import Any

VERSION = 1


class OtherJobError(ValueError):
    """The output directory belongs to another job; the message is one line."""


@dataclasses.dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the input, and what tells that it has changed.

    Attributes:
        path: as the user gave it, or found below a directory that the user gave.
        size: in bytes.
        changed: time of its last change in ns since 1970; None: the file system does not say.
    """

    path: str
    size: int
    changed: int | None

    def as_json(self) -> list[Any]:
        return [self.path, self.size, self.changed]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A job: the same inputs and settings give the same output.

    Attributes:
        inputs: in their order.
        settings: JSON values by name.
    """

    inputs: tuple[InputFile, ...]
    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """Returns it as JSON, always in the same words."""
        value = {
            "version": VERSION,
            "inputs": [one.as_json() for one in self.inputs],
            "settings": self.settings,
        }
        return json.dumps(value, sort_keys=True, indent=1)

    @classmethod
    def parse(cls, text: str, place: str) -> "Manifest":
        """Reads what `text` wrote.

        Raises:
            OtherJobError: it is none, or another version's.
        """
        try:
            value = json.loads(text)
            version = value["version"]
            inputs = tuple(InputFile(*one) for one in value["inputs"])
            settings = dict(value["settings"])
        except (ValueError, KeyError, TypeError):
            raise OtherJobError(f"{place} is not a manifest of isoprefill batch") from None
        if version != VERSION:
            raise OtherJobError(f"{place} is of version {version}, and this is version {VERSION}")
        return cls(inputs=inputs, settings=settings)

    def check_same(self, other: "Manifest", directory: str) -> None:
        """Checks that another manifest, found in the output directory, is of this job.

        Raises:
            OtherJobError: it is not; names the first difference.
        """
        begin = f"output {directory} holds another job"
        for name in sorted({*self.settings, *other.settings}):
            now, then = self.settings.get(name), other.settings.get(name)
            if now != then:
                raise OtherJobError(f"{begin}: its {name} is {then!r}, and now it is {now!r}")
        if len(self.inputs) != len(other.inputs):
            raise OtherJobError(
                f"{begin}: it has {len(other.inputs)} input files, and now there are {len(self.inputs)}"
            )
        for now_file, then_file in zip(self.inputs, other.inputs, strict=True):
            if now_file.path != then_file.path:
                raise OtherJobError(f"{begin}: its input {then_file.path} is now {now_file.path}")
            if now_file != then_file:
                raise OtherJobError(
                    f"input {now_file.path} has changed since the job in {directory} began"
                )
