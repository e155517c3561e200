"""Checks the shapes and dtypes of an attention's arrays."""

import jax

from isoprefill_pallas.heads import DTYPES

# float32 holds these caps, their reciprocals, and what a score becomes when a cap divides it.
LEAST_SOFT_CAP, MOST_SOFT_CAP = 1e-30, 1e30


def check_operands(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    of: str,
    rows: int,
    columns: int,
    soft_cap: float | None,
) -> None:
    """Refuses arrays that do not fit each other, or do not have the rows and columns of a layout or a schedule.

    Args:
        q, k, v: [rows, Hq, D], [columns, Hkv, D], [columns, Hkv, D]. Whether a back end takes their heads is not
            looked at.
        of: what has these rows and columns.

    Raises:
        ValueError: naming the argument, its value and what is expected.
    """
    for name, array, length, of_length in (
        ("q", q, rows, "rows"),
        ("k", k, columns, "columns"),
        ("v", v, columns, "columns"),
    ):
        if array.ndim != 3:
            raise ValueError(
                f"{name} must have 3 dimensions [tokens, heads, head_dim], got shape {array.shape}"
            )
        if array.shape[0] != length:
            raise ValueError(
                f"{name} must have the {of}'s {length} {of_length}, got shape {array.shape}"
            )
        if array.dtype not in DTYPES:
            raise ValueError(f"{name} must be one of {DTYPES}, got {array.dtype}")
        if array.dtype != q.dtype:
            raise ValueError(f"{name} must have q's dtype {q.dtype}, got {array.dtype}")
        if array.shape[2] != q.shape[2]:
            raise ValueError(f"{name} must have q's head_dim {q.shape[2]}, got shape {array.shape}")
    if k.shape != v.shape:
        raise ValueError(f"v must have k's shape {k.shape}, got {v.shape}")
    if soft_cap is not None and not LEAST_SOFT_CAP <= soft_cap <= MOST_SOFT_CAP:
        raise ValueError(
            f"soft_cap must be from {LEAST_SOFT_CAP} to {MOST_SOFT_CAP}, got {soft_cap}"
        )
