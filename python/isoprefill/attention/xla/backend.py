"""The back end "xla": plain XLA, for every platform and all heads."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from isoprefill.attention.backend import Attended, AttentionBackend
from isoprefill.attention.layout import PackedLayout
from isoprefill.attention.xla.attention import xla_attention
from isoprefill.attention.xla.schedule import aligned_schedules


def _attend(q: Array, k: Array, v: Array, layout: PackedLayout, **options: Any) -> Attended:
    intervals = jnp.asarray(layout.row_intervals)
    return xla_attention(q, k, v, intervals, layout.schedule, window=layout.window, **options)


BACKEND = AttentionBackend(
    "xla",
    _attend,
    schedule=aligned_schedules,
    schedule_options=("block_q", "block_kv", "local_block"),
)
