"""Prints the rows of bench_cpu."""

from bench_cpu.contestants import WARM
from bench_cpu.rows import Row
from bench_cpu.workloads import WORKLOADS


def header() -> str:
    """Returns the table's first line."""
    return (
        f"{'workload':<18}{'implementation':<34}{'dtype':<10}{'items/s':>8}{'p50':>11}{'p95':>11}"
        f"{'MB':>7}{'diff':>9}{'x peer':>8}{'GFLOP':>8}{'share':>7}"
    )


def line(row: Row) -> str:
    """Returns the row's line of the table."""
    head = f"{row['workload']:<18}{row['implementation']:<34}{row['dtype']:<10}"
    if row.get("error"):
        return f"{head}{row['error']}"
    small = WORKLOADS[row["workload"].split(",")[0]].small
    p50, p95 = (
        f"{ms:.2f} ms" if small else f"{ms / 1e3:.2f} s" for ms in (row["p50_ms"], row["p95_ms"])
    )
    difference, ratio, share = (row["max_score_diff"], row["ratio_to_best_peer"], row["gemm_share"])
    return (
        f"{head}{row['items_per_s']:8.1f}{p50:>11}{p95:>11}{row['peak_rss_mb']:7.0f}"
        f"{'' if difference is None else f'{difference:.1e}':>9}{'' if ratio is None else f'{ratio:.2f}':>8}"
        f"{row['gflop']:8.1f}{'' if share is None else f'{share:.2f}':>7}"
    )


def weights_lines(workload: str, rows: list[Row]) -> list[str]:
    """Returns for each dtype how long reading the weights once takes, and how many times that our fastest row takes."""
    lines = []
    read = [row for row in rows if "weights_read_ms" in row]
    for dtype in dict.fromkeys(row["dtype"] for row in read):
        of_dtype = [row for row in read if row["dtype"] == dtype]
        size, ms = of_dtype[0]["weights_mb"], of_dtype[0]["weights_read_ms"]
        text = (
            f"{workload}, {dtype}: all cores read the weights ({size:.0f} MB) once in {ms:.1f} ms"
        )
        if ours := [row for row in of_dtype if _is_ours_and_fresh(row)]:
            best = min(ours, key=lambda row: row["seconds"])
            ratio = best["ratio_to_weights_read"]
            text += f"; the p50 of {best['implementation']} is {ratio:.2f} times that"
        lines.append(text)
    return lines


def _is_ours_and_fresh(row: Row) -> bool:
    name = row["implementation"].split("/")[0]
    return name.startswith("ours-") and name not in WARM
