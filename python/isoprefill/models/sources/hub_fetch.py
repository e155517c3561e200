"""Fetches models from the Hugging Face Hub with its own package, which the extra isoprefill[hub] brings.

Only what is pinned by a commit is fetched, so that a name always means the same weights, and only into the Hub's cache
(`hub_cache`). $HF_ENDPOINT names another server, $HF_HUB_OFFLINE forbids it all, both as for the Hub's own tools.
"""

import contextlib
import glob
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from isoprefill.models.sources.pinned import FetchError

# What models and adapters are read from: no pickles, no code.
_FILES = ["*.json", "*.jinja", "*.safetensors"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PART_OF_GGUF = re.compile(r"-\d{5}(?=-of-\d{5}\.gguf$)")


def can_fetch(revision: str) -> bool:
    """Whether a revision may be fetched: it is a commit, the package is there, and $HF_HUB_OFFLINE is not set."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")
    return (
        is_commit(revision)
        and not offline
        and importlib.util.find_spec("huggingface_hub") is not None
    )


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, all 40 digits of it."""
    return _COMMIT.fullmatch(revision) is not None


def is_incomplete(folder: Path, commit: str) -> bool:
    """Whether a fetch into a repository's folder of the cache did not come to its end."""
    return _marker(folder, commit).is_file()


def fetch(repository: str, commit: str, file: str | None, folder: Path) -> None:
    """Fetches the files that a model or an adapter is read from, or one file with the others of a split model.

    Args:
        repository: ORG/NAME.
        commit: all 40 digits.
        file: which; None: all files at the top that are read.
        folder: the repository's folder in the cache.

    Raises:
        FetchError: the Hub could not be reached, has no such commit, or the cache cannot be written.
    """
    import huggingface_hub

    if file is None:
        patterns, ignored = _FILES, ["*/*"]
    else:
        patterns, ignored = [_PART_OF_GGUF.sub("-?????", glob.escape(file))], []
    print(f"Fetching {repository}@{commit} into {folder}", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _marker(folder, commit).touch()
        with _without_progress_bars():
            huggingface_hub.snapshot_download(
                repository,
                revision=commit,
                cache_dir=folder.parent,
                allow_patterns=patterns,
                ignore_patterns=ignored,
                endpoint=os.environ.get("HF_ENDPOINT") or None,
            )
        _marker(folder, commit).unlink(missing_ok=True)  # another process may have fetched the same
    except Exception as error:  # of HTTP, of the package, of the file system
        reason = " ".join(str(error).split())[:300]
        raise FetchError(
            f"{repository}@{commit} could not be fetched from the Hub: {type(error).__name__}: {reason}"
        ) from error


def _marker(folder: Path, commit: str) -> Path:
    """Returns the file that is there while a commit is being fetched."""
    return folder / f".{commit}.isoprefill-incomplete"


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
