"""What the TPU kernel takes: heads, their width and their dtype."""

import dataclasses

import jax
import jax.numpy as jnp

HEAD_DIMS = (64, 128, 256)
DTYPES = ("bfloat16", "float32")
MAX_GROUPS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Heads:
    """The heads of an attention that the kernel can compute.

    Raises:
        ValueError: naming the value and what is allowed.
    """

    query_heads: int
    kv_heads: int
    head_dim: int
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"the pallas back end takes {DTYPES}, got {self.dtype}")
        if self.head_dim not in HEAD_DIMS:
            raise ValueError(f"the pallas back end takes head_dim {HEAD_DIMS}, got {self.head_dim}")
        if self.query_heads % self.kv_heads or not 1 <= self.groups <= MAX_GROUPS:
            raise ValueError(
                f"the pallas back end takes 1 to {MAX_GROUPS} query heads per KV head, got "
                f"{self.query_heads} query heads and {self.kv_heads} KV heads"
            )

    @property
    def groups(self) -> int:
        """Query heads per KV head."""
        return self.query_heads // self.kv_heads

    @classmethod
    def of(cls, q: jax.Array, k: jax.Array) -> "Heads":
        """The heads of q [T, Hq, D] and k [S, Hkv, D]."""
        return cls(q.shape[1], k.shape[1], q.shape[2], jnp.dtype(q.dtype).name)
