"""Requests at the same time, which a server may compute in one batch."""

import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float64

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings

BARRIER_S = 60.0
REQUESTS = (
    (texts.PLACE_QUERY, texts.PLACES),
    (texts.CAPITAL_QUERY, texts.CAPITALS),
    (texts.REVIEW_QUERY, (texts.PRAISE, texts.COMPLAINT)),
    (texts.PLACE_QUERY, texts.OTHER_LENGTH),
)


def concurrent_requests(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Do requests that arrive at the same time change each other's scores?"""
    barrier = threading.Barrier(len(REQUESTS))

    def ask(query: str, items: Sequence[str]) -> Float64[np.ndarray, "N L"]:
        barrier.wait(timeout=BARRIER_S)
        return instrument.once(query, _never_asked(items))[:-1]

    alone = [instrument.measure(query, _never_asked(items))[:-1] for query, items in REQUESTS]
    diffs = []
    with ThreadPoolExecutor(len(REQUESTS)) as threads:
        # Every round counts: requests share a batch in some only.
        for _ in range(settings.repeats):
            together = list(threads.map(ask, *zip(*REQUESTS, strict=True)))
            diffs.append([difference(a, b) for a, b in zip(alone, together, strict=True)])
    details = {"requests": len(REQUESTS), "diffs_by_round": diffs}
    return Measurement(max(map(max, diffs)), True, details)


def _never_asked(items: Sequence[str]) -> list[str]:
    """The items and one that is new, lest a server that keeps whole answers gives one of those."""
    return [*items, f" {secrets.token_hex(4)}"]
