"""Prints a report on a terminal."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isoprefill.audit.analysis import side_by_side
from isoprefill.audit.markdown_report import number
from isoprefill.audit.run import AuditReport

NARROW = 72  # cells; below, a table would cut its numbers


def print_report(report: AuditReport, console: Console) -> None:
    """Prints the conclusion, and a line for each probe, leak and compared item; texts are folded, numbers never cut."""
    conclusion = report.conclusion
    _say(console, f"{conclusion.verdict}: {conclusion.explanation}")
    _say(
        console,
        f"{report.server_url}, model {report.model or 'unnamed'}: {report.num_requests} requests in "
        f"{report.seconds:.1f} s",
    )
    _print_table(
        console,
        ["probe", "effect", "threshold", "verdict"],
        [
            [one.name, number(one.effect), number(one.threshold)]
            + [f"{one.verdict}: {one.reason}" if one.reason else one.verdict]
            for one in report.findings
        ],
    )
    if conclusion.leaks:
        _print_table(
            console,
            ["item", "changes item", "effect", "by its"],
            [
                [str(leak.source + 1), str(leak.target + 1), number(leak.effect), leak.by]
                for leak in conclusion.leaks
            ],
        )
    comparison = report.comparison
    if comparison is not None:
        agree = "agree" if comparison.agree else "differ"
        _say(
            console,
            f"Compared with {comparison.server_url}: they {agree}; log scores differ by up to "
            f"{number(comparison.max_log_diff)}, probabilities by up to {number(comparison.max_probability_diff)}.",
        )


def print_side_by_side(paths: list[Path], console: Console) -> None:
    """Prints stored results as one table.

    Raises:
        UnreadableResultError: a file holds no results.
    """
    _print_table(console, *side_by_side(paths), numbers=False)


def _say(console: Console, text: str) -> None:
    console.print(Text(text), end="\n\n")


def _print_table(
    console: Console, head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True
) -> None:
    """Prints a table; `numbers`: what is between the first column and the last are numbers."""
    if console.width < NARROW:
        for row in rows:
            facts = [
                f"{name} {value}" for name, value in zip(head[1:], row[1:], strict=True) if value
            ]
            console.print(Text(f"{row[0]}: {', '.join(facts)}"))
        console.print()
        return
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(head):
        last = place == len(head) - 1
        right = numbers and not last and place > 0
        table.add_column(
            name, justify="right" if right else "left", no_wrap=not last, overflow="fold"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print()
