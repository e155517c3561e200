"""A progress bar on stderr."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from isoprefill.engine import ProgressCallback


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[ProgressCallback]:
    """Yields a callback (done, total) that draws a bar, if stderr is a terminal and one call is not all."""
    with contextlib.ExitStack() as stack:
        bar: Progress | None = None

        def update(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                if done == total:
                    return
                columns = (*Progress.get_default_columns(), MofNCompleteColumn())
                bar = stack.enter_context(
                    Progress(*columns, console=Console(stderr=True), transient=True)
                )
                bar.add_task(description, total=total)
            bar.update(bar.task_ids[0], completed=done)

        yield update
