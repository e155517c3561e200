import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


def merge_kv(k, v):
    """[T, Hkv, D] each to [T, 1, 2 Hkv / packing, packing, D padded], heads K0, V0, K1, V1."""
    tokens, heads, head_dim = k.shape
    packing = 4 // k.dtype.itemsize
    padded = -(-head_dim // 128) * 128
    fused = jnp.stack([k, v], axis=2).reshape(tokens, 2 * heads, head_dim)
    fused = jnp.pad(fused, ((0, 0), (0, 0), (0, padded - head_dim)))
    return fused.reshape(tokens, 1, 2 * heads // packing, packing, padded)


class MHATokenToKVPool:
    def __init__(
        self,
        size,
        page_size,
        dtype,
        head_num,
        head_dim,
        layer_num,
        mesh,
        dp_size=1,
        start_layer=None,
        end_layer=None,
    ):
        packing = 4 // jnp.dtype(dtype).itemsize
        shape = (
            (size + page_size * dp_size) // page_size,
            page_size,
            head_num * 2 // packing,
            packing,
            head_dim,  # already padded
        )
        self.kv_sharding = NamedSharding(mesh, P("data", None, "tensor", None, None))
        # Not zeros: what no request wrote must have no effect.
        self.kv_buffer = [
            jax.device_put(jnp.full(shape, jnp.nan, dtype), self.kv_sharding)
            for _ in range(layer_num)
        ]

    def get_fused_kv_buffer(self, layer_id):
        return self.kv_buffer[layer_id]
