"""Dense reference of isolated multi-item attention: the definition, written out.

It materialises every score, so it is for tests and small inputs. Letters: T rows, S columns, Hq query heads,
Hkv key and value heads, D head_dim.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

HIDDEN_SCORE = -1e30  # not -inf: a row that sees nothing would turn into NaN


def visible(
    segment_ids: Int32[Array, "T"],
    request_ids: Int32[Array, "T"],
    row_columns: Int32[Array, "T"],
    key_segment_ids: Int32[Array, "S"],
    key_request_ids: Int32[Array, "S"],
    window: int | None = None,
) -> Bool[Array, "T S"]:
    """Which column each row sees.

    A row sees the columns of its own request, up to itself, that belong to the prefix (segment 0) or to the
    row's own item (segment > 0). Padding (segment -1) and delimiters (-2) are seen by nobody. With a window it sees
    the last `window` of them.
    """
    columns = jnp.arange(key_segment_ids.shape[0], dtype=jnp.int32)
    same_request = request_ids[:, None] == key_request_ids
    not_later = columns <= row_columns[:, None]
    prefix = key_segment_ids == 0
    own_item = (segment_ids[:, None] == key_segment_ids) & (key_segment_ids > 0)
    seen = same_request & not_later & (prefix | own_item)
    if window is None:
        return seen
    not_earlier = jnp.cumsum(seen[:, ::-1], axis=1, dtype=jnp.int32)[:, ::-1] <= window
    return seen & not_earlier


def dense_attention(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    mask: Bool[Array, "T S"],
    *,
    scale: float,
    soft_cap: float | None = None,
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    """softmax(scale * q k^T, over the visible columns) v, and the log-sum-exp of each row's scores.

    Accumulates in float32. Query heads h * Hq / Hkv and following share KV head h. With `soft_cap` c a score s
    becomes c * tanh(s / c). A row that sees nothing gives zeros and a log-sum-exp of -inf.

    Returns:
        The output in q's dtype and the log-sum-exp in float32.
    """
    rows, query_heads, head_dim = q.shape
    kv_heads = k.shape[1]
    grouped = q.reshape(rows, kv_heads, query_heads // kv_heads, head_dim)
    scores = scale * jnp.einsum(
        "thgd,shd->hgts",
        grouped,
        k,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    scores = jnp.where(mask, scores, HIDDEN_SCORE)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.where(mask, jnp.exp(scores - largest), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    sees_something = total > 0
    probabilities = weights / jnp.where(sees_something, total, 1.0)
    out = jnp.einsum(
        "hgts,shd->thgd",
        probabilities,
        v.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    lse = jnp.where(
        sees_something, largest + jnp.log(jnp.where(sees_something, total, 1.0)), -jnp.inf
    )
    lse = jnp.transpose(lse[..., 0], (2, 0, 1)).reshape(rows, query_heads)
    return out.reshape(q.shape).astype(q.dtype), lse
