"""Attention over a query and its items with isoprefill's TPU kernel, beside its dense reference: `bazel run //:attend`.

Without a TPU the kernel runs in the TPU interpreter.
"""

import jax
import numpy as np

import isoprefill_csrc
from isoprefill_pallas.block_sizes import choose_block_sizes
from isoprefill_pallas.chips import present_chip
from isoprefill_pallas.heads import Heads
from isoprefill_pallas.op import pallas_attention
from isoprefill_pallas.reference import dense_attention
from isoprefill_pallas.schedule import KernelSchedule

QUERY_HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64


def main() -> None:
    """Attends, compares and prints."""
    # A query of 50 tokens and items of 3, 20 and 7, one after another.
    layout = isoprefill_csrc.build_layout(
        prefix_lens=[50], item_lens=[[3, 20, 7]], delimiters=["none"]
    )
    rows = layout.num_rows
    normal = np.random.default_rng(0).standard_normal
    q = normal((rows, QUERY_HEADS, HEAD_DIM)).astype(np.float32)
    k, v = (normal((rows, KV_HEADS, HEAD_DIM)).astype(np.float32) for _ in range(2))

    heads = Heads(QUERY_HEADS, KV_HEADS, HEAD_DIM, "float32")
    sizes = choose_block_sizes(present_chip(), heads, layout.row_intervals, layout.num_columns)
    schedule = KernelSchedule.build(layout, sizes)
    scale = HEAD_DIM**-0.5
    out, _ = pallas_attention(q, k, v, schedule, scale=scale)
    expected, _ = dense_attention(q, k, v, layout.dense_mask(), scale=scale)
    difference = float(np.abs(out - expected).max())
    print(
        f"{rows} rows on {jax.default_backend()}: differs from the dense reference by {difference:.1e}"
    )
    if not difference < 1e-5:
        raise SystemExit("the kernel and its reference differ")


if __name__ == "__main__":
    main()
