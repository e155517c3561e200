"""The back end "dense", the reference: every score of the pack, masked. O(T * S) memory."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from isoprefill.attention.backend import Attended, AttentionBackend
from isoprefill.attention.layout import PackedLayout
from isoprefill_pallas.reference import dense_attention, visible


def _attend(q: Array, k: Array, v: Array, layout: PackedLayout, **options: Any) -> Attended:
    mask = visible(
        jnp.asarray(layout.segment_ids),
        jnp.asarray(layout.request_ids),
        jnp.asarray(layout.row_columns),
        jnp.asarray(layout.key_segment_ids),
        jnp.asarray(layout.key_request_ids),
        layout.window,
    )
    return dense_attention(q, k, v, mask, **options)


BACKEND = AttentionBackend("dense", _attend, has_gradient=True)
