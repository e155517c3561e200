"""Turns a report into Markdown."""

from collections.abc import Iterable

from isoprefill.audit.comparison import Comparison
from isoprefill.audit.finding import Finding
from isoprefill.audit.run import AuditReport


def to_markdown(report: AuditReport) -> str:
    """Returns the report as a Markdown page."""
    conclusion, calibration = report.conclusion, report.calibration
    lines = [
        f"# Isolation audit: {conclusion.verdict}",
        "",
        conclusion.explanation,
        "",
        f"{report.server_url}, model {report.model or 'unnamed'}, sends {_SCALES[report.scale]}; "
        f"{report.num_requests} requests in {report.seconds:.1f} s from {report.started}.",
        "",
        f"Repeating a request changes a score by up to {number(calibration.spread)}, adding items after an item by "
        f"{number(calibration.rounding)}. Scores of different items differ by {number(calibration.signal)}. All "
        "differences are of natural logarithms.",
        "",
        *table(["probe", "question", "effect", "threshold", "verdict"], map(_row, report.findings)),
    ]
    if conclusion.leaks:
        rows = [
            [leak.source + 1, leak.target + 1, leak.by, number(leak.effect)]
            for leak in conclusion.leaks
        ]
        lines += ["", "## Which item influences which", ""]
        lines += table(["item", "changes item", "by its", "effect"], rows)
    if report.comparison is not None:
        lines += ["", *_comparison(report.comparison)]
    return "\n".join(lines) + "\n"


def _row(finding: Finding) -> list[str]:
    numbers = [number(finding.effect), number(finding.threshold)]
    reason = f": {finding.reason}" if finding.reason else ""
    return [finding.name, finding.question, *numbers, finding.verdict + reason]


def _comparison(comparison: Comparison) -> list[str]:
    head = ["query", "place", "item", "log scores", "the other's", "difference", "in probability"]
    rows = [
        [item.query, item.position + 1, item.item, _scores(item.first), _scores(item.second)]
        + [number(item.log_diff), number(item.probability_diff)]
        for item in comparison.items
    ]
    return [
        f"## Compared with {comparison.server_url}: they {'agree' if comparison.agree else 'differ'}",
        "",
        f"Log scores differ by up to {number(comparison.max_log_diff)}; probabilities by up to "
        f"{number(comparison.max_probability_diff)}, by {number(comparison.mean_probability_diff)} on average.",
        "",
        *table(head, rows),
    ]


def table(head: list[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(_cell, line))} |" for line in lines]


_SCALES = {"log": "log-probabilities", "probability": "probabilities", "logit": "logits"}


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def number(value: float | None) -> str:
    """Returns a number as reports show it; nothing for None."""
    return "" if value is None else f"{value:.3g}"


def _scores(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
