"""A model of one attention layer: x = embedding + position embedding, x + attention(x), tied LM head."""

import functools
import types

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sgl_jax.srt.layers.attention.native_backend import NativeAttention
from sgl_jax.srt.layers.logits_processor import LogitsProcessor
from sgl_jax.srt.layers.radix_attention import RadixAttention
from sgl_jax.srt.mem_cache.memory_pool import MHATokenToKVPool


class SpeculativeAlgorithm:
    def is_none(self):
        return True


class Model(nnx.Module):
    def __init__(self, weights, mesh):
        tokens, heads = (
            NamedSharding(mesh, spec) for spec in (P("data", None), P(None, "tensor", None))
        )
        replicated = NamedSharding(mesh, P())
        self.tokens_sharding = tokens
        self.embedding = jax.device_put(weights["embedding"], replicated)
        self.position = jax.device_put(weights["position"], replicated)
        for name in "qkv":  # [hidden, heads, head_dim]
            setattr(self, name, jax.device_put(weights[name], heads))
        self.o = jax.device_put(weights["o"], NamedSharding(mesh, P("tensor", None)))
        query_heads, head_dim = weights["q"].shape[1:]
        self.attn = RadixAttention(
            query_heads, head_dim, head_dim**-0.5, weights["k"].shape[1], layer_id=0, logit_cap=20.0
        )
        self.logits_processor = LogitsProcessor(len(weights["embedding"]), mesh)

    def __call__(self, forward_batch, pool, logits_metadata):
        x = self.embedding.at[forward_batch.input_ids].get(out_sharding=self.tokens_sharding)
        x = x + self.position.at[forward_batch.positions].get(out_sharding=self.tokens_sharding)
        q, k, v = (jnp.einsum("th,hnd->tnd", x, getattr(self, name)) for name in "qkv")
        out, cache = self.attn(q, k, v, forward_batch, pool)
        x = x + jnp.dot(out, self.o, out_sharding=self.tokens_sharding)
        return self.logits_processor(x, self.embedding, logits_metadata), cache


class ModelRunner:
    def __init__(self, weights, server_args, mesh, pool_size):
        self.server_args = server_args
        self.page_size = server_args.page_size
        self.mesh = mesh
        self.spec_algorithm = SpeculativeAlgorithm()
        self.weights = weights
        _, self.num_attn_heads, head_dim = weights["q"].shape
        self.num_kv_heads = weights["k"].shape[1]
        self.model_config = types.SimpleNamespace(dtype=server_args.dtype, head_dim=head_dim)
        self.init_attention_backend()
        self.model = Model(weights, mesh)
        self.token_to_kv_pool = MHATokenToKVPool(
            pool_size,
            self.page_size,
            server_args.dtype,
            self.num_kv_heads,
            128,
            1,
            mesh,
            server_args.dp_size,
        )

    def init_attention_backend(self):
        self.attn_backend = self._get_attention_backend()

    def _get_attention_backend(self):
        return NativeAttention(self.num_attn_heads, self.num_kv_heads, self.mesh)

    def forward(self, forward_batch, logits_metadata):
        with jax.set_mesh(self.mesh):
            output, cache = _run(
                self.model, forward_batch, self.token_to_kv_pool.kv_buffer[0], logits_metadata
            )
        self.token_to_kv_pool.kv_buffer[0] = cache
        return output, 0, None


class _Pool:
    def __init__(self, cache):
        self.cache = cache

    def get_fused_kv_buffer(self, layer_id):
        return self.cache


@functools.partial(jax.jit, donate_argnums=2)
def _run(model, forward_batch, cache, logits_metadata):
    return model(forward_batch, _Pool(cache), logits_metadata)
