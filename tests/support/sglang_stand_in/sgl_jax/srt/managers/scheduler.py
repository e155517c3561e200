"""A scheduler that a test drives: requests wait until `run(ranks)` says which tokens of which run together."""

import types

import numpy as np
from sgl_jax.srt.managers.schedule_batch import Req, ScheduleBatch
from sgl_jax.srt.managers.scheduler_output_processor_mixin import SchedulerOutputProcessorMixin
from sgl_jax.srt.managers.tp_worker import ModelWorker

POOL_TOKENS = 512


class Scheduler(SchedulerOutputProcessorMixin):
    def __init__(self, server_args, model_runner, send):
        self.server_args = server_args
        self.tp_worker = ModelWorker(model_runner)
        self.model_config = types.SimpleNamespace(vocab_size=len(model_runner.weights["embedding"]))
        self.tree_cache = types.SimpleNamespace(released=[])
        self.waiting_queue = []
        self.send = send
        self.last_output = None
        # Pages in an order of their own; page 0 is nobody's.
        pages = POOL_TOKENS // server_args.page_size
        self.free_pages = np.random.default_rng(0).permutation(np.arange(1, pages)).tolist()

    def handle_generate_request(self, recv_req):
        req = Req(recv_req.rid, recv_req.input_ids, recv_req.sampling_params, recv_req.extra_key)
        self._add_request_to_queue(req)

    def _add_request_to_queue(self, req):
        page = self.server_args.page_size
        pages = [self.free_pages.pop() for _ in range(-(-len(req.origin_input_ids) // page))]
        req.slots = np.concatenate([np.arange(p * page, (p + 1) * page) for p in pages])
        self.waiting_queue.append(req)

    def run(self, ranks, rows=192):
        batch = ScheduleBatch(ranks)
        worker_batch = batch.get_model_worker_batch(
            [rows], [8], [512], self.server_args.page_size, False
        )
        self.last_output, *_ = self.tp_worker.forward_batch_generation(
            worker_batch, sampling_metadata=None
        )
        self.process_batch_result_prefill(batch, None, None)


def run_scheduler_process(server_args, port_args, dp_rank, pipe_writer):
    pipe_writer.append("the original ran")
