import base64

from sgl_jax.srt.managers.io_struct import BatchStrOut


class DetokenizerManager:
    def _extract_routed_experts(self, recv_obj):
        return [
            None if array is None else base64.b64encode(array.tobytes()).decode()
            for array in recv_obj.output_routed_experts
        ]

    def handle_batch_token_id_out(self, recv_obj):
        experts = self._extract_routed_experts(recv_obj)
        return BatchStrOut(recv_obj.rids, recv_obj.finished_reasons, experts)
