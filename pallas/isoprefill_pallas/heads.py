"""The heads that the TPU kernel supports: their numbers, head_dim and dtype."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

HEAD_DIMS = (64, 128, 256)
DTYPES = ("float32", "bfloat16")
MAX_GROUPS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class AttentionHeads:
    """The heads of an attention.

    Raises:
        ValueError: if no attention can compute them; names the value and what is allowed.
    """

    query_heads: int
    kv_heads: int
    head_dim: int
    dtype: str

    def __post_init__(self) -> None:
        for name, value in (
            ("query heads", self.query_heads),
            ("KV heads", self.kv_heads),
            ("head_dim", self.head_dim),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.query_heads % self.kv_heads:
            raise ValueError(
                f"query heads must be a multiple of the {self.kv_heads} KV heads, got {self.query_heads}"
            )

    @property
    def groups(self) -> int:
        """Query heads per KV head."""
        return self.query_heads // self.kv_heads

    @classmethod
    def of(cls, q: jax.Array, k: jax.Array) -> Self:
        """Returns the heads of q [T, Hq, D] and k [S, Hkv, D]."""
        return cls(q.shape[1], k.shape[1], q.shape[2], jnp.dtype(q.dtype).name)


@dataclasses.dataclass(frozen=True, slots=True)
class Heads(AttentionHeads):
    """The heads of an attention that the kernel can compute.

    Raises:
        ValueError: naming the value and what is allowed.
    """

    def __post_init__(self) -> None:
        AttentionHeads.__post_init__(self)  # super() does not work with slots
        if self.dtype not in DTYPES:
            raise ValueError(f"the pallas back end takes {DTYPES}, got {self.dtype}")
        if self.head_dim not in HEAD_DIMS:
            raise ValueError(f"the TPU kernel takes head_dim {HEAD_DIMS}, got {self.head_dim}")
        if self.groups > MAX_GROUPS:
            raise ValueError(
                f"the pallas back end takes 1 to {MAX_GROUPS} query heads per KV head, got "
                f"{self.query_heads} query heads and {self.kv_heads} KV heads"
            )
