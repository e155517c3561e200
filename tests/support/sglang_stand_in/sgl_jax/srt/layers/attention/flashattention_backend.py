from flax import nnx
from sgl_jax.srt.layers.attention.base_attn_backend import (
    AttentionBackend,
    AttentionBackendMetadata,
)


class FlashAttention(AttentionBackend):
    def __init__(
        self,
        num_attn_heads,
        num_kv_heads,
        head_dim,
        page_size: int = 1,
        kv_partition_axis: str = "tensor",
        attention_data_partition_axis: str = "data",
        mesh=None,
    ):
        self.page_size = page_size
        self.forward_metadata = nnx.data(AttentionBackendMetadata())

    def get_forward_metadata(self, batch):
        return AttentionBackendMetadata()

    def __call__(
        self, q, k, v, layer, forward_batch, token_to_kv_pool, causal=1, attention_sink=None
    ):
        raise NotImplementedError

    @staticmethod
    def get_max_running_reqests(max_context_len: int, page_size: int) -> int:
        return 4096
