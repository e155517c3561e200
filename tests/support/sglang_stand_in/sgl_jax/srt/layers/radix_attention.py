import enum

from flax import nnx


class AttentionType(enum.Enum):
    DECODER = "decoder"
    ENCODER_ONLY = "encoder_only"


class RadixAttention(nnx.Module):
    def __init__(
        self,
        num_heads,
        head_dim,
        scaling,
        num_kv_heads,
        layer_id,
        v_head_dim=-1,
        sliding_window_size=0,
        logit_cap=0,
        attn_type=AttentionType.DECODER,
        softmax_dtype=None,
    ):
        self.q_head_num = num_heads
        self.kv_head_num = num_kv_heads
        self.head_dim = head_dim
        self.v_head_dim = v_head_dim if v_head_dim != -1 else head_dim
        self.scaling = scaling
        self.layer_id = layer_id
        self.sliding_window_size = sliding_window_size or None
        self.logit_cap = logit_cap or None
        self.attn_type = attn_type
        self.xai_temperature_len = -1

    def __call__(self, q, k, v, forward_batch, token_to_kv_pool, **kwargs):
        return forward_batch.attn_backend(q, k, v, self, forward_batch, token_to_kv_pool, **kwargs)
