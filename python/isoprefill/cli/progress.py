"""Progress on stderr: a bar on a terminal, elsewhere a line now and then."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from isoprefill.execution.executor import ProgressCallback

SHORTEST_LIST = 50  # items; shorter ones are done before a bar could be read
LINE_S = 10.0  # between lines


@contextlib.contextmanager
def progress(command: str, description: str) -> Iterator[ProgressCallback]:
    """Yields a callback (done, total) that shows how far the work is and how long it has taken.

    Args:
        command: what begins each line.
        description: of what is counted.
    """
    if sys.stderr is None:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(description) as update:
            yield update
    else:
        with _lines(command, description) as update:
            yield update


@contextlib.contextmanager
def _bar(description: str) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    with contextlib.ExitStack() as stack:
        bar: Progress | None = None

        def update(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                if total < SHORTEST_LIST:
                    return
                columns = (
                    *Progress.get_default_columns(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                )
                bar = stack.enter_context(
                    Progress(*columns, console=Console(stderr=True), transient=True)
                )
                bar.add_task(description, total=total)
            bar.update(bar.task_ids[0], completed=done)

        yield update


@contextlib.contextmanager
def _lines(command: str, description: str) -> Iterator[ProgressCallback]:
    """Writes a line every `LINE_S` seconds, from a thread: tokenising and a pack may take longer."""
    state = "preparing"
    ended = threading.Event()
    began = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal state
        state = f"{done:,} of {total:,} {description}"

    def write() -> None:
        while not ended.wait(LINE_S):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it
                print(
                    f"{command}: {state}, {time.monotonic() - began:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield update
    finally:
        ended.set()
        thread.join()
