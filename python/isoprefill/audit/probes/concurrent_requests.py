"""Requests at the same time, which a server may compute in one batch."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float64

from isoprefill.audit import texts
from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument, difference
from isoprefill.audit.settings import AuditSettings

REQUESTS = (
    (texts.PLACE_QUERY, texts.PLACES),
    (texts.CAPITAL_QUERY, texts.CAPITALS),
    (texts.REVIEW_QUERY, (texts.PRAISE, texts.COMPLAINT)),
    (texts.PLACE_QUERY, texts.OTHER_LENGTH),
)


def concurrent_requests(instrument: Instrument, settings: AuditSettings) -> Measurement:
    """Do requests that arrive at the same time change each other's scores?"""
    alone = [instrument.measure(query, items) for query, items in REQUESTS]
    barrier = threading.Barrier(len(REQUESTS))

    def ask(index: int) -> Float64[np.ndarray, "N L"]:
        barrier.wait()
        return instrument.once(*REQUESTS[index])

    diffs = []
    with ThreadPoolExecutor(len(REQUESTS)) as threads:
        # Every round counts: requests share a batch in some only.
        for _ in range(settings.repeats):
            together = list(threads.map(ask, range(len(REQUESTS))))
            diffs.append([difference(a, b) for a, b in zip(alone, together, strict=True)])
    details = {"requests": len(REQUESTS), "diffs_by_round": diffs}
    return Measurement(max(map(max, diffs)), True, details)
