# ruff: noqa: E402 - the stand-ins must be found before they are imported
"""A whole sglang-jax server in one process, of the stand-ins for its classes, with our link installed.

Importing this module puts the stand-ins on the path, gives JAX four devices and installs the link, so a test imports it
before anything of the link.
"""

import asyncio
import functools
import os
import pathlib
import sys

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
STAND_IN = pathlib.Path(__file__).parent / "sglang_stand_in"
sys.path.insert(0, str(STAND_IN))

import jax
import numpy as np
from sgl_jax.srt.managers.io_struct import TokenizedGenerateReqInput
from sgl_jax.srt.managers.scheduler import Scheduler
from sgl_jax.srt.managers.tokenizer_manager import TokenizerManager
from sgl_jax.srt.model_executor.model_runner import ModelRunner
from sgl_jax.srt.server_args import ServerArgs

from isoprefill_sglang_jax import install
from isoprefill_sglang_jax.backend import kernel_heads

install(allow_untested=True)

VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 64, 32, 4, 2, 64
LABELS = [3, 5, 63]
QUERY = list(range(1, 20))
ITEMS = [[20, 21, 22], [23], [24, 25, 26, 27, 28], [20, 21, 22], [30, 31]]


@functools.cache
def weights():
    generator = np.random.default_rng(0)

    def normal(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    return {
        "embedding": normal(VOCAB, HIDDEN),
        "position": normal(256, HIDDEN),
        "q": normal(HIDDEN, HEADS, HEAD_DIM) / 4,
        "k": normal(HIDDEN, KV_HEADS, HEAD_DIM) / 4,
        "v": normal(HIDDEN, KV_HEADS, HEAD_DIM) / 4,
        "o": normal(HEADS * HEAD_DIM, HIDDEN) / 8,
    }


def logprobs_alone(tokens):
    """log P(next token | tokens) of the stand-in's model, of one causal prompt, in float64."""
    w = {name: value.astype(np.float64) for name, value in weights().items()}
    x = w["embedding"][tokens] + w["position"][: len(tokens)]
    q, k, v = (np.einsum("th,hnd->tnd", x, w[name]) for name in "qkv")
    k, v = (np.repeat(array, HEADS // KV_HEADS, axis=1) for array in (k, v))
    scores = np.einsum("tnd,snd->nts", q, k) / np.sqrt(HEAD_DIM)
    scores = 20.0 * np.tanh(scores / 20.0)
    scores = np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    x = x + np.einsum("nts,snd->tnd", p, v).reshape(len(tokens), -1) @ w["o"]
    logits = x[-1] @ w["embedding"].T
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def expected(query, items, labels=LABELS):
    return np.array([logprobs_alone(query + item)[labels] for item in items])


class Server:
    """Front end, scheduler and detokenizer in one process."""

    def __init__(self, page_size=1, tensor=1, data=1, attention="xla", **arguments):
        self.arguments = ServerArgs(page_size=page_size, dp_size=data, **arguments)
        mesh = jax.make_mesh(
            (data, tensor), ("data", "tensor"), (jax.sharding.AxisType.Explicit,) * 2
        )
        self.runner = ModelRunner(weights(), self.arguments, mesh, 512 * data)
        # What install(attention=…) would do; it can be called once a process.
        self.runner.attn_backend.kernel_heads = kernel_heads(self.runner, attention)
        config = type("Config", (), {"vocab_size": VOCAB})
        self.front = TokenizerManager(self.arguments, config)
        self.scheduler = Scheduler(self.arguments, self.runner, self.front.receive)
        self.front.scheduler = self.scheduler

    def score(self, *requests, run=None):
        """Log-probabilities of requests that wait together; `run(scheduler)` runs them."""

        async def together():
            tasks = [asyncio.create_task(self.front.score_request(*each)) for each in requests]
            for _ in range(5):
                await asyncio.sleep(0)
            if self.scheduler.waiting_queue:
                (run or run_all)(self.scheduler)
            return await asyncio.gather(*tasks)

        return [np.log(scores) for scores in asyncio.run(together())]

    def add(self, rid, tokens, extra_key=None, max_new_tokens=1):
        """Queues a request beside the front end; its answer goes to a future of that name."""
        self.front.answers[rid] = Answer()
        params = type("Params", (), {"max_new_tokens": max_new_tokens})
        self.scheduler.handle_generate_request(
            TokenizedGenerateReqInput(rid, tokens, params, extra_key)
        )
        return self.scheduler.waiting_queue[-1]


class Answer:
    value = None

    def set_result(self, value):
        self.value = value


def run_all(scheduler, ranks=1):
    """All waiting requests in one pass, dealt out to the ranks."""
    requests = [(request, len(request.origin_input_ids)) for request in scheduler.waiting_queue]
    scheduler.run([requests[rank::ranks] for rank in range(ranks)])
