"""Models of the Hugging Face Hub: where its own tools, or `hub_fetch`, have put them.

The cache is $HF_HUB_CACHE, or hub in $HF_HOME, or huggingface/hub in $XDG_CACHE_HOME or ~/.cache. In it,

    models--ORG--NAME/refs/main                    holds a commit
    models--ORG--NAME/snapshots/COMMIT/config.json and so on are the files of that commit
"""

import dataclasses
import os
import re
from pathlib import Path

from isoprefill.models.sources import hub_fetch

_NAME = re.compile(
    r"(?P<org>\w[\w.-]*)/(?P<name>\w[\w.-]*)(?:/(?P<file>[^@]+))?(?:@(?P<revision>.+))?"
)
_MAIN = "main"
_CONFIGS = ("config.json", "adapter_config.json")  # what a model, or an adapter, is not without


@dataclasses.dataclass(frozen=True, slots=True)
class HubName:
    """A model's name on the Hub: ORG/NAME, ORG/NAME@REVISION, or with a file as ORG/NAME/FILE.

    Attributes:
        repository: ORG/NAME.
        file: one file of it; None: all.
        revision: a branch, a tag or a commit.
    """

    repository: str
    file: str | None
    revision: str

    @classmethod
    def parse(cls, text: str) -> "HubName | None":
        """Returns the name; None if the text cannot be one."""
        match = _NAME.fullmatch(text)
        if match is None or match["name"].endswith(".gguf"):
            return None
        file, revision = match["file"], match["revision"] or _MAIN
        if ".." in Path(file or "").parts + Path(revision).parts or Path(revision).is_absolute():
            return None
        return cls(f"{match['org']}/{match['name']}", file, revision)

    def locate(self) -> Path:
        """Returns the directory of the files, or the file; fetches them if they are not here and `hub_fetch` may.

        Raises:
            ValueError: it is not in the cache; says what would fetch it.
            pinned.FetchError: it was to be fetched and could not be.
        """
        folder = cache_directory() / f"models--{self.repository.replace('/', '--')}"
        found = self._find(folder)
        absent = (
            found is None
            or hub_fetch.is_incomplete(folder, self.revision)
            # Another name may have fetched one file of the commit.
            or (self.file is None and not any((found / one).is_file() for one in _CONFIGS))
        )
        if absent and hub_fetch.can_fetch(self.revision):
            hub_fetch.fetch(self.repository, self.revision, self.file, folder)
            found = self._find(folder)
        if found is None:
            raise ValueError(
                f"{self.repository!r} is no file or directory here, and not in the Hub's cache {cache_directory()}"
                + f"{self._asked_for()}, and nothing is fetched here{self._why()}: fetch it with `{self._command()}`"
            )
        return found

    def _find(self, folder: Path) -> Path | None:
        commit = self.revision
        reference = folder / "refs" / self.revision
        if reference.is_file():
            commit = reference.read_text("utf-8", "replace").strip()
        snapshot = folder / "snapshots" / commit
        # A reference must not lead elsewhere.
        found = snapshot if commit and Path(commit).name == commit and snapshot.is_dir() else None
        if found is not None and self.file is not None:
            found = found / self.file if (found / self.file).is_file() else None
        return found

    def _asked_for(self) -> str:
        asked = [f"file {self.file}"] if self.file else []
        asked += [f"revision {self.revision}"] if self.revision != _MAIN else []
        return f" ({', '.join(asked)})" if asked else ""

    def _why(self) -> str:
        if hub_fetch.is_commit(self.revision):
            return " without the package huggingface_hub (isoprefill[hub]), or with HF_HUB_OFFLINE"
        return ""

    def _command(self) -> str:
        words = ["hf", "download", self.repository]
        words += [self.file] if self.file else []
        words += ["--revision", self.revision] if self.revision != _MAIN else []
        return " ".join(words)


def cache_directory() -> Path:
    """Returns the cache's directory, whether it exists or not."""
    if own := os.environ.get("HF_HUB_CACHE"):
        return Path(own).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches).expanduser() / "huggingface" / "hub"
