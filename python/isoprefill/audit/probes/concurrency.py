"""Do requests change each other's scores when a server computes them in one batch?"""

import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.log_scores import LogScores

BARRIER_S = 60.0
REQUESTS = (
    (texts.PLACE_QUERY, texts.PLACES),
    (texts.CAPITAL_QUERY, texts.CAPITALS),
    (texts.REVIEW_QUERY, (texts.PRAISE, texts.COMPLAINT)),
    (texts.PLACE_QUERY, texts.OTHER_LENGTH),
)


def concurrent_requests(instrument: Instrument) -> Measurement:
    """Do requests that arrive at the same time change each other's scores?"""
    barrier = threading.Barrier(len(REQUESTS))

    def score_together(query: str, items: Sequence[str]) -> LogScores:
        barrier.wait(timeout=BARRIER_S)
        return instrument.once(query, _with_a_new_item(items))[:-1]

    alone = [instrument.measure(query, _with_a_new_item(items))[:-1] for query, items in REQUESTS]
    diffs = []
    with ThreadPoolExecutor(len(REQUESTS)) as threads:
        # Every round counts: requests share a batch in some only.
        for _ in range(instrument.settings.repeats):
            together = list(threads.map(score_together, *zip(*REQUESTS, strict=True)))
            diffs.append([difference(a, b) for a, b in zip(alone, together, strict=True)])
    return Measurement(max(map(max, diffs)), {"requests": len(REQUESTS), "diffs_by_round": diffs})


def _with_a_new_item(items: Sequence[str]) -> list[str]:
    """Appends an item that is new, so that a server that keeps whole answers has to compute this one."""
    return [*items, f" {secrets.token_hex(4)}"]
