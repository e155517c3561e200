"""The progress of a batch job on stderr: a bar on a terminal, lines of text elsewhere, or JSON; and its summary."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator

from isoprefill.batch.summary import Progress, Summary

LINE_S = 10.0  # between lines

OnProgress = Callable[[Progress], None]


@contextlib.contextmanager
def batch_progress(as_json: bool) -> Iterator[OnProgress]:
    """Yields a callback that shows progress: lines of JSON, a bar on a terminal, or else lines of text."""
    if sys.stderr is None:
        yield lambda progress: None
    elif as_json:
        yield _Lines(_json)
    elif sys.stderr.isatty():
        with _bar() as update:
            yield update
    else:
        yield _Lines(_text)


def summary_lines(summary: Summary) -> Iterator[str]:
    """Yields what people read of a summary."""
    counts = summary.counts
    yield f"{counts.rows:,} rows, {counts.items:,} items, {counts.errors:,} errors, {summary.blocks:,} files"
    yield (
        f"{summary.items_per_second:,.1f} items/s in this run with {summary.replicas} replicas, "
        f"{summary.items_per_replica_second:,.1f} items/s of a replica"
    )
    yield (
        f"computed {summary.query_share:.2%} of the query tokens that scoring item by item would compute; "
        f"{counts.item_tokens:,} item tokens"
    )
    if summary.items_begun_again:
        yield f"{summary.items_begun_again:,} items begun again after interruptions"


class _Lines:
    """Writes a line when a phase begins or ends, and every LINE_S seconds."""

    def __init__(self, line: Callable[[Progress], str]) -> None:
        self._line = line
        self._last: tuple[str, float] = ("", 0.0)

    def __call__(self, progress: Progress) -> None:
        phase, at = self._last
        now = time.monotonic()
        if progress.phase == phase and now - at < LINE_S and progress.done < progress.total:
            return
        self._last = (progress.phase, now)
        with contextlib.suppress(OSError, ValueError):  # nobody reads it
            print(self._line(progress), file=sys.stderr, flush=True)


def _json(progress: Progress) -> str:
    return json.dumps({"event": "progress"} | progress.as_json())


def _text(progress: Progress) -> str:
    what = "units shuffled" if progress.phase == "shuffling" else "items scored"
    parts = [f"{progress.done:,} of {progress.total:,} {what}", f"{progress.rate:,.1f}/s"]
    if progress.seconds_left is not None:
        parts.append(f"{progress.seconds_left:,.0f} s left")
    if progress.errors:
        parts.append(f"{progress.errors:,} errors")
    return f"batch: {', '.join(parts)}"


@contextlib.contextmanager
def _bar() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(
            "{task.fields[rate]:,.1f}/s, {task.fields[left]}, {task.fields[errors]:,} errors"
        ),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate=0.0, left="", errors=0)

        def update(progress: Progress) -> None:
            left = progress.seconds_left
            bar.update(
                task,
                description=progress.phase,
                completed=progress.done,
                total=progress.total,
                rate=progress.rate,
                left="" if left is None else f"{left:,.0f} s left",
                errors=progress.errors,
            )

        yield update
