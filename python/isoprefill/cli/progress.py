"""A progress bar on stderr."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from isoprefill.execution.executor import ProgressCallback

SHORTEST_LIST = 50  # items; shorter ones are done before a bar could be read


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[ProgressCallback]:
    """Yields a callback (done, total) that draws a bar with the time gone by, if stderr is a terminal."""
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
