"""Draws which item influences which."""

from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from isoprefill.audit.run import AuditReport

SMALLEST = 1e-6  # smaller effects take its colour


class NothingToDrawError(ValueError):
    """The audit could not measure the influence of items on one another."""


def draw_heat_map(report: AuditReport, path: Path) -> None:
    """Draws the influence of every item on every other, by changed content and by changed length, as a PNG.

    Raises:
        NothingToDrawError: the server refused the probes that measure it.
        OSError: the file cannot be written.
    """
    findings = {finding.name: finding for finding in report.findings}
    panels = [
        (findings[name], title)
        for name, title in (
            ("same_length_mutation", "another text of the same length"),
            ("changed_length_mutation", "a longer or shorter text"),
        )
        if "influence" in findings[name].details
    ]
    if not panels:
        raise NothingToDrawError(
            "the server refused the requests that show which item influences which"
        )
    figure = Figure(figsize=(5.2 * len(panels), 4.4), layout="constrained")
    figure.suptitle(
        f"{report.conclusion.verdict}: {report.server_url} ({report.model})", fontsize=10
    )
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (finding, title) in zip(axes, panels, strict=True):
        influence = np.array(finding.details["influence"])
        np.fill_diagonal(influence, np.nan)
        image = axis.imshow(
            np.maximum(influence, SMALLEST), norm=LogNorm(SMALLEST, 10), cmap="magma_r"
        )
        for (source, target), effect in np.ndenumerate(influence):
            if source != target:
                colour = "white" if effect > 1e-3 else "black"
                text = f"{effect:.1f}" if effect >= 0.1 else f"{effect:.0e}" if effect else "0"
                axis.text(target, source, text, ha="center", va="center", fontsize=7, color=colour)
        numbers = range(len(influence))
        axis.set_xticks(numbers, [f"{index + 1}" for index in numbers])
        axis.set_yticks(numbers, [f"{index + 1}" for index in numbers])
        axis.set_xlabel("… changes the log score of item")
        axis.set_ylabel(f"item replaced by {title} …", fontsize=9)
        axis.set_title(f"threshold {finding.threshold:.2g}", fontsize=9)
    figure.colorbar(image, ax=list(axes), label="difference of log scores")
    figure.savefig(path, format="png", dpi=150)
