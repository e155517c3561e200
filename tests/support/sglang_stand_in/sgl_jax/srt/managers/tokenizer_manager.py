import asyncio
import types

from sgl_jax.srt.managers.detokenizer_manager import DetokenizerManager
from sgl_jax.srt.managers.io_struct import TokenizedGenerateReqInput


class TokenizerManager:
    def __init__(self, server_args, model_config, tokenizer=None, context_len=256):
        self.server_args = server_args
        self.model_config = model_config
        self.tokenizer = tokenizer
        self.context_len = context_len
        self.max_req_input_len = 512
        self.scheduler = None
        self.answers = {}
        self.sent = 0
        self.calls = []  # of the original score_request

    def receive(self, recv_obj):
        out = DetokenizerManager().handle_batch_token_id_out(recv_obj)
        for i, rid in enumerate(out.rids):
            self.answers[rid].set_result(
                {
                    "meta_info": {
                        "finish_reason": out.finished_reasons[i],
                        "routed_experts": out.output_routed_experts[i],
                    }
                }
            )

    async def generate_request(self, obj, request=None):
        rid = str(self.sent)
        self.sent += 1
        self.answers[rid] = asyncio.get_running_loop().create_future()
        params = types.SimpleNamespace(**obj.sampling_params)
        self.scheduler.handle_generate_request(
            TokenizedGenerateReqInput(rid, obj.input_ids, params, obj.extra_key)
        )
        answer = await self.answers[rid]
        reason = answer["meta_info"]["finish_reason"]
        if reason is not None and reason["type"] == "abort":
            raise ValueError(reason["message"])
        yield answer

    async def score_request(
        self,
        query=None,
        items=None,
        label_token_ids=None,
        apply_softmax=False,
        item_first=False,
        request=None,
    ):
        self.calls.append((query, items, item_first))
        return [[0.5]]
