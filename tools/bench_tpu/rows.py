"""The rows of bench_tpu, measured or estimated, and its table."""

from typing import Any

from isoprefill_tpu_lab.estimate import bound_seconds
from isoprefill_tpu_lab.packs import PACKS

ESTIMATE = "compiler-estimate"
Row = dict[str, Any]


def make_row(workload: str, chip: str, implementation: str, source: str, **known: Any) -> Row:
    """Returns a row of the JSON file; a number that is not known is None."""
    return {
        "workload": workload,
        "chip": chip,
        "implementation": implementation,
        **dict.fromkeys(("static_cycles", "seconds", "useful_share", "hbm_bytes")),
        "source": source,
        **known,
    }


def print_table(rows: list[Row]) -> None:
    print(
        f"{'workload':10} {'implementation':28} {'cycles':>12} {'vs best splash':>14} {'ms':>8} "
        f"{'of bound':>8} {'useful':>7} {'HBM MB':>8}"
    )
    for row in rows:
        head = f"{row['workload']:10} {row['implementation']:28}"
        if row.get("error"):
            print(f"{head} does not compile: {row['error'][:70]}")
            continue
        basis = "static_cycles" if row["static_cycles"] is not None else "seconds"
        splash = [
            other[basis]
            for other in rows
            if other["workload"] == row["workload"]
            and other["implementation"].startswith("splash")
            and other[basis] is not None
        ]
        ratio = f"{row[basis] / min(splash):.3f}" if splash else ""
        cycles = f"{row['static_cycles']:,}" if row["static_cycles"] is not None else ""
        share = f"{row['useful_share']:.3f}" if row["useful_share"] is not None else ""
        moved = f"{row['hbm_bytes'] / 1e6:.0f}" if row["hbm_bytes"] is not None else ""
        reached = ""
        if row["source"] == ESTIMATE:
            bound = max(bound_seconds(row["chip"], PACKS[row["workload"]]))
            reached = f"{bound / row['seconds']:.3f}"
        print(
            f"{head} {cycles:>12} {ratio:>14} {row['seconds'] * 1e3:8.3f} {reached:>8} {share:>7} {moved:>8}"
        )
