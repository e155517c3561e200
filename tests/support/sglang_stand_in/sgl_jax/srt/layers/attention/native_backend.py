"""Attention that gives 7 everywhere: enough to see that ordinary passes come here."""

import jax.numpy as jnp
from sgl_jax.srt.layers.attention.base_attn_backend import AttentionBackend


class NativeAttention(AttentionBackend):
    def __init__(self, num_attn_heads, num_kv_heads, mesh):
        self.num_heads = num_attn_heads
        self.num_kv_heads = num_kv_heads
        self.mesh = mesh

    def get_forward_metadata(self, batch):
        return None

    def __call__(self, q, k, v, layer, forward_batch, token_to_kv_pool, **kwargs):
        out = jnp.full((q.shape[0], q.shape[1] * q.shape[2]), 7.0, q.dtype)
        return out, token_to_kv_pool.get_fused_kv_buffer(layer.layer_id)

    @staticmethod
    def get_max_running_reqests(max_context_len: int, page_size: int) -> int:
        return 4096
