"""A server whose engine does nothing: its time is that of the front end and the round trip to the scheduler.

With a model as its argument, whose tokenizer it uses, it is the server, at a free port that it logs. Without, it is the
server's scheduler.
"""

import sys
from collections.abc import Sequence

import numpy as np

from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import launch, scheduler
from isoprefill.server.settings import BatchSettings, ServerSettings


class IdleEngine:
    """Gives every label of every item the probability 1."""

    vocab_size = 1 << 20
    max_positions = pack_tokens = 1 << 20
    hidden_size, classes = 64, None
    device = "none"
    compilations = 0

    def score(self, requests: Sequence[TokenRequest]) -> list[RequestLogprobs]:
        return [self._scores(request) for request in requests]

    def _scores(self, request: TokenRequest) -> RequestLogprobs:
        items = len(request.items)
        shape = (items,)
        num_labels = None
        if request.options.labels is not None:
            shape += (request.options.labels.token_ids.shape[1],)
            num_labels = np.full(items, shape[1], np.int32)
        return RequestLogprobs(
            logprobs=np.zeros(shape),
            num_tokens=np.asarray([item.size for item in request.items], np.int32),
            num_labels=num_labels,
            token_logprobs=None,
            algorithm="packed",
            reason="",
        )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        scheduler.run(lambda settings: IdleEngine())
    else:
        settings = ServerSettings(
            engine=EngineSettings(model=sys.argv[1]),
            warmup_tokens=(),
            port=0,
            log_format="json",
            batch=BatchSettings(max_wait_s=0),
        )
        launch.serve(settings, (sys.executable, __file__))
