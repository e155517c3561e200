"""The rows of bench_cpu: made of what was measured, and compared with the best peer."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench_cpu.contestants import WARM
from bench_cpu.implementation import Dtype
from bench_cpu.instructions import Instructions
from bench_cpu.measurement import Measured
from bench_cpu.weights_read import WeightsRead
from bench_cpu.workloads import Kind

Row = dict[str, Any]
Contestant = tuple[str, Dtype]  # implementation, dtype of the weights

NUMBERS = (
    "items_per_s",
    "seconds",
    "p50_ms",
    "p95_ms",
    "peak_rss_mb",
    "max_score_diff",
    "gflop",
    "gemm_share",
)


def row_of(who: Contestant, rounds: list[Measured], reference: list[Measured] | None) -> Row:
    """Returns the row of all rounds, with the largest difference from the reference's scores."""
    first = rounds[0]
    # A round may scale down to another number of items: the rate of each is what counts.
    each = [seconds / one.num_items for one in rounds for seconds in one.seconds]
    p50, p95 = (float(np.percentile(each, p)) * first.num_items for p in (50, 95))
    rates = [one.matmul_gflop_per_s for one in rounds if one.matmul_gflop_per_s is not None]
    difference = None
    if reference:
        expected = np.asarray(reference[0].logprobs)[: first.num_items]
        difference = float(np.abs(np.asarray(first.logprobs) - expected).max())
    return {
        "workload": first.workload,
        "implementation": f"{who[0]}/{first.kind}",
        "dtype": who[1],
        "items_per_s": first.num_items / p50,
        "seconds": p50,
        "p50_ms": 1e3 * p50,
        "p95_ms": 1e3 * p95,
        "peak_rss_mb": max(one.peak_rss_mb for one in rounds),
        "max_score_diff": difference,
        "gflop": first.gflop,
        "gemm_share": first.gflop / p50 / statistics.median(rates) if rates else None,
    }


def failed_row(workload: str, who: Contestant, kind: Kind, reason: str) -> Row:
    """Returns a row without numbers."""
    named = {"workload": workload, "implementation": f"{who[0]}/{kind}", "dtype": who[1]}
    return named | dict.fromkeys(NUMBERS) | {"error": f"failed: {reason}"}


def identity(row: Row) -> tuple[str, str, Instructions | None]:
    """Returns what tells a row from the others of its workload."""
    return row["implementation"], row["dtype"], row.get("instructions")


def with_ratios(rows: list[Row]) -> list[Row]:
    """Adds to the rows of one workload their items/s relative to the best peer.

    It is the fastest PyTorch row of the same dtype, kind and instructions. A peer over a warm query counts only for
    rows over a warm query; for these the other peers count too, because one need not use what is cached.
    """
    for row in rows:
        peers = [peer["items_per_s"] for peer in rows if _is_peer(peer, row)]
        known = peers and not row.get("error")
        row["ratio_to_best_peer"] = row["items_per_s"] / max(peers) if known else None
    return rows


def _is_peer(peer: Row, row: Row) -> bool:
    name, kind = peer["implementation"].split("/")
    own_name, own_kind = row["implementation"].split("/")
    alike = kind == own_kind and identity(peer)[1:] == identity(row)[1:]
    usable = name not in WARM or own_name in WARM
    return name.startswith("torch-") and alike and usable and not peer.get("error")


def with_weights_read(rows: list[Row], weights: Mapping[Dtype, WeightsRead]) -> list[Row]:
    """Adds how long reading the weights once takes, in the row's dtype, and how many times that the row's p50 is."""
    for row in rows:
        if (read := weights.get(row["dtype"])) and not row.get("error"):
            row["weights_mb"] = read.num_bytes / 1e6
            row["weights_read_ms"] = 1e3 * read.seconds
            row["ratio_to_weights_read"] = row["seconds"] / read.seconds
    return rows
