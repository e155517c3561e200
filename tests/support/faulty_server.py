"""A server whose engine fails on command, and needs neither JAX nor a model's weights to do so.

    python faulty_server.py MODEL [LIMITS]      the server; LIMITS is an object of JSON
    python faulty_server.py                     its scheduler

An item's score is minus its number of tokens. The engine raises on a batch that holds token 13; token 14 moves the
scores of the requests beside it. Token 15 takes `SLOW_S`. What it says of token 16 is no message of the protocol.
"""

import json
import sys
import time
from collections.abc import Sequence

import numpy as np

from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import launch, scheduler
from isoprefill.server.settings import BatchSettings, Limits, ServerSettings

POISON = 13
LEAK = 14
SLOW, SLOW_S = 15, 6.1
GARBLED = 16


class FaultyEngine:
    """Scores by length; fails on `POISON`, leaks on `LEAK`."""

    vocab_size = 300
    max_positions = pack_tokens = 512
    hidden_size, classes = 64, None
    device = "none"
    compilations = 0

    def score(self, requests: Sequence[TokenRequest]) -> list[RequestLogprobs]:
        for request in requests:
            if any(POISON in item for item in request.items):
                raise RuntimeError("the content of /home/somebody/secret")
        if any(SLOW in item for request in requests for item in request.items):
            time.sleep(SLOW_S)
        leaking = [any(LEAK in item for item in request.items) for request in requests]
        return [
            self._scores(request, 1e-6 * any(leaking[:place] + leaking[place + 1 :]))
            for place, request in enumerate(requests)
        ]

    def _scores(self, request: TokenRequest, leaked: float) -> RequestLogprobs:
        lens = np.asarray([item.size for item in request.items], np.int32)
        return RequestLogprobs(
            logprobs=leaked - lens.astype(np.float64),
            num_tokens=lens,
            num_labels=None,
            token_logprobs=None,
            algorithm="packed",
            reason=5 if any(GARBLED in item for item in request.items) else "",  # type: ignore[arg-type]
        )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        scheduler.run(lambda settings: FaultyEngine())
    else:
        settings = ServerSettings(
            engine=EngineSettings(model=sys.argv[1]),
            warmup_tokens=(),
            port=0,
            log_format="json",
            batch=BatchSettings(max_wait_s=0.2),
            limits=Limits(**json.loads(sys.argv[2])) if len(sys.argv) > 2 else Limits(),
        )
        launch.serve(settings, (sys.executable, __file__))
