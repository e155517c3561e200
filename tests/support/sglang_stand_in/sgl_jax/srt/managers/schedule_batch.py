import dataclasses

import numpy as np
from sgl_jax.srt.model_executor.forward_batch_info import ForwardMode


class FINISH_ABORT:  # noqa: N801 - as there
    def __init__(self, message=None, status_code=None, err_type=None):
        self.message = message

    def to_json(self):
        return {"type": "abort", "message": self.message}


class Req:
    def __init__(self, rid, origin_input_ids, sampling_params, extra_key=None):
        self.rid = rid
        self.origin_input_ids = origin_input_ids
        self.sampling_params = sampling_params
        self.extra_key = extra_key
        self.lora_id = "0"
        self.to_finish = None
        self.return_routed_experts = False
        self.routed_experts = None
        self.computed = 0  # tokens in the cache
        self.slots = np.zeros(0, np.int32)  # where they are

    def set_finish_with_abort(self, error_msg):
        self.origin_input_ids = [0]
        self.to_finish = FINISH_ABORT(error_msg)


@dataclasses.dataclass
class ScheduleReqsInfo:
    reqs: list | None = None
    extend_lens: list | None = None


class ScheduleBatch:
    """Requests of each rank, with the tokens of each that the pass computes: `[[(request, tokens), …], …]`."""

    def __init__(self, ranks):
        self.reqs_info = [
            ScheduleReqsInfo([request for request, _ in rank], [tokens for _, tokens in rank])
            for rank in ranks
        ]

    def get_model_worker_batch(
        self,
        token_paddings,
        bs_paddings,
        cache_loc_paddings,
        page_size,
        enable_static_lora=False,
    ):
        ranks, rows, slots = len(self.reqs_info), token_paddings[0], bs_paddings[0]
        batch = ModelWorkerBatch(
            forward_mode=ForwardMode.EXTEND,
            input_ids=np.zeros((ranks, rows), np.int32),
            positions=np.zeros((ranks, rows), np.int32),
            out_cache_loc=np.full((ranks, rows), -1, np.int32),
            cache_loc=np.full((ranks, cache_loc_paddings[0]), 3, np.int32),  # stale, in bounds
            extend_prefix_lens=np.zeros((ranks, slots), np.int32),
            extend_seq_lens=np.zeros((ranks, slots), np.int32),
            logits_indices=np.zeros((ranks, slots), np.int32),
            dp_size=ranks,
            per_dp_bs_size=slots,
        )
        for rank, info in enumerate(self.reqs_info):
            row, column = 0, 0
            for slot, (request, tokens) in enumerate(zip(info.reqs, info.extend_lens, strict=True)):
                start, end = request.computed, request.computed + tokens
                rows_here = slice(row, row + tokens)
                batch.input_ids[rank, rows_here] = request.origin_input_ids[start:end]
                batch.positions[rank, rows_here] = np.arange(start, end)
                batch.out_cache_loc[rank, rows_here] = request.slots[start:end]
                batch.cache_loc[rank, column : column + end] = request.slots[:end]
                batch.extend_prefix_lens[rank, slot] = start
                batch.extend_seq_lens[rank, slot] = tokens
                row += tokens
                column += -(-end // page_size) * page_size
                batch.logits_indices[rank, slot] = row - 1
                request.computed = end
        for name in (
            "input_ids",
            "positions",
            "out_cache_loc",
            "cache_loc",
            "extend_prefix_lens",
            "extend_seq_lens",
            "logits_indices",
        ):
            setattr(batch, name, getattr(batch, name).ravel())
        return batch


@dataclasses.dataclass
class ModelWorkerBatch:
    forward_mode: ForwardMode
    input_ids: np.ndarray
    positions: np.ndarray
    out_cache_loc: np.ndarray
    cache_loc: np.ndarray
    extend_prefix_lens: np.ndarray
    extend_seq_lens: np.ndarray
    logits_indices: np.ndarray
    dp_size: int = 1
    per_dp_bs_size: int = 0
