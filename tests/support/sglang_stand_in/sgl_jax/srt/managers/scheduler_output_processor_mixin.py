from sgl_jax.srt.managers.io_struct import BatchTokenIDOut
from sgl_jax.srt.mem_cache.common import release_kv_cache


class SchedulerOutputProcessorMixin:
    def maybe_collect_routed_experts(self, req):
        return None

    def process_batch_result_prefill(self, batch, result, launch_done=None):
        done = [
            req
            for info in batch.reqs_info
            for req in info.reqs
            if req.computed == len(req.origin_input_ids)
        ]
        for req in done:
            self.maybe_collect_routed_experts(req)
            release_kv_cache(req, self.tree_cache, allow_overallocated=False)
        self.stream_output_generation(done, False, False)

    def stream_output_generation(
        self,
        reqs,
        return_logprob,
        return_output_logprob_only,
        skip_reqs=None,
        cache_miss_count=None,
    ):
        self.send(
            BatchTokenIDOut(
                [req.rid for req in reqs],
                [req.to_finish.to_json() if req.to_finish else None for req in reqs],
                [req.routed_experts for req in reqs],
            )
        )
