"""The rows and the table of `bench_tpu --step`."""

import dataclasses
from typing import Any

from bench_tpu import published
from bench_tpu.rows import ESTIMATE
from bench_tpu.step import StepEstimate
from benchmark import error_line

LARGEST = 12  # instructions that the table names


def make_row(
    model: str, workload: str, readout: str, chip: str, estimate: StepEstimate
) -> dict[str, Any]:
    """Returns a row of the JSON file."""
    return _row(model, workload, readout, chip) | estimate.as_json()


def make_error_row(
    model: str, workload: str, readout: str, chip: str, error: Exception
) -> dict[str, Any]:
    """Returns the row of a step that does not compile."""
    return _row(model, workload, readout, chip) | {"error": error_line(error)}


def _row(model: str, workload: str, readout: str, chip: str) -> dict[str, Any]:
    return {
        "model": model,
        "workload": workload,
        "readout": readout,
        "chip": chip,
        "source": ESTIMATE,
    }


def published_rows(model: str, workload: str, chip: str) -> list[dict[str, Any]]:
    """Returns the figures of others for the same model, chip and workload, and those for none of our workloads."""
    return [
        {"model": model, "chip": chip, **dataclasses.asdict(figure)}
        for figure in published.FIGURES.get((model, chip), ())
        if figure.workload in (None, workload)
    ]


def print_error(row: dict[str, Any]) -> None:
    print(
        f"\n{row['model']}, {row['workload']}, {row['readout']}, {row['chip']}: does not compile: {row['error']}",
        flush=True,
    )


def print_step(row: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Prints the parts of one step, its largest instructions, and what others publish."""
    total = row["seconds"]
    print(
        f"\n{row['model']}, {row['workload']}, {row['readout']}, {row['chip']}: {total * 1e3:.2f} ms, "
        f"{row['items_per_second']:,.0f} items/s, {row['share_of_peak']:.1%} of the peak, "
        f"{row['hbm_bytes'] / 1e9:.1f} GB; compiled in {row['compile_seconds']:.0f} s, "
        f"{row['argument_bytes'] / 1e9:.1f} GB of arguments, {row['temporary_bytes'] / 1e9:.1f} of temporaries"
    )
    print(f"  {'part':16} {'ms':>8} {'share':>6} {'GB':>7}")
    for part, of in row["parts"].items():
        print(
            f"  {part:16} {of['seconds'] * 1e3:8.2f} {of['seconds'] / total:6.1%} {of['hbm_bytes'] / 1e9:7.2f}"
        )
    if sent := row.get("collectives"):
        print(
            f"  between {row['devices']} chips, each: {sent['link_bytes'] / 1e9:.1f} GB over links, "
            f"{sent['link_seconds'] * 1e3:.2f} ms alone, of which {sent['overlapping_share']:.0%} beside other work"
        )
    print(f"  largest: {'ms':>7} {'without memory':>14} {'times':>5}")
    for cost in sorted(row["instructions"], key=lambda cost: -cost["seconds"])[:LARGEST]:
        print(
            f"  {cost['seconds'] * 1e3:16.2f} {cost['compute_seconds'] * 1e3:14.2f} {cost['times']:5}  "
            f"{cost['name']} ({cost['part']}) {cost['shapes']}"
        )
    bound = row["items_per_second"] / row["share_of_peak"]
    print(f"  {bound:10,.0f} items/s: arithmetic of the model at the peak")
    for other in others:
        print(f"  {other['items_per_second']:10,.0f} items/s: published, {other['source']}")
