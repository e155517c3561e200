"""Attention over a query and its items with isoprefill's TPU kernel, beside its dense reference: `bazel run //:attend`.

Without a TPU the kernel runs in the TPU interpreter.
"""

import jax
import numpy as np

from isoprefill_pallas import Heads, KernelSchedule, attend, build_layout, dense_attention

HEADS = Heads(query_heads=4, kv_heads=2, head_dim=64, dtype="float32")


def main() -> None:
    """Attends, compares and prints."""
    # A query of 50 tokens and items of 3, 20 and 7, one after another.
    layout = build_layout(prefix_lens=[50], item_lens=[[3, 20, 7]])
    normal = np.random.default_rng(0).standard_normal
    q = normal((layout.num_rows, HEADS.query_heads, HEADS.head_dim), np.float32)
    k, v = normal((2, layout.num_columns, HEADS.kv_heads, HEADS.head_dim), np.float32)
    scale = HEADS.head_dim**-0.5

    out, _ = attend(q, k, v, KernelSchedule.of(layout, HEADS), scale=scale)
    expected, _ = dense_attention(q, k, v, layout.dense_mask(), scale=scale)
    difference = float(np.abs(out - expected).max())
    print(
        f"{len(q)} rows on {jax.default_backend()}: differs from the dense reference by {difference:.1e}"
    )
    if not difference < 1e-5:
        raise SystemExit("the kernel and its reference differ")


if __name__ == "__main__":
    main()
