"""The folders in which models and compiled programs are kept."""

import os
from collections.abc import Iterator
from pathlib import Path

from isoprefill.doctor.finding import Finding
from isoprefill.models.sources.pinned import FetchError, cache_directory

_ADVICE = "set ISOPREFILL_CACHE to a folder that this user may write"


def check_cache_folders() -> Iterator[Finding]:
    """Yields whether each folder can be written, or else what that costs."""
    try:
        root = cache_directory()
    except FetchError as error:
        yield Finding("cache", "failed", str(error), _ADVICE)
        return
    for name, loss in (
        ("models", "the default model cannot be fetched"),
        ("xla", "every start compiles again"),
    ):
        folder = root / name
        if _writable(folder):
            yield Finding(f"cache: {name}", "ok", str(folder))
        elif folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
            yield Finding(f"cache: {name}", "note", f"{folder} is read-only: {loss}", _ADVICE)
        else:
            detail = f"{folder} can be neither written nor read: {loss}"
            yield Finding(f"cache: {name}", "failed", detail, _ADVICE)


def _writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, which may not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".doctor-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
