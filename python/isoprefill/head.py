"""Log-probabilities from hidden states: the LM head, only at the rows asked for.

Logits are made for one block of rows at a time, so memory does not grow with the number of rows: all logits of
500 items of 20 tokens over 49,152 tokens would be 2 GB. Letters: T rows of the pack, M rows asked for, K tokens
at each of them, V vocabulary, B rows of a block.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from isoprefill.models.config import ModelConfig
from isoprefill.models.decoder import Params, head_logits

ROWS_AT_ONCE = 256  # of float32 logits: 50 MB for a vocabulary of 49,152


@functools.partial(jax.jit, static_argnames="config")
def logprobs_at(
    params: Params,
    config: ModelConfig,
    hidden: Float[Array, "T hidden"],
    rows: Int32[Array, "M"],
    num_rows: Int32[Array, ""],
    token_ids: Int32[Array, "M K"],
) -> Float[Array, "M K"]:
    """log P(token_ids[m, k]) over the full vocabulary at rows[m], for the first `num_rows` of M."""
    block = min(ROWS_AT_ONCE, rows.shape[0])

    def compute(index: Int32[Array, ""], out: Float[Array, "M K"]) -> Float[Array, "M K"]:
        # The last block may begin early and compute some rows twice; they come out the same.
        begin = jnp.minimum(index * block, rows.shape[0] - block)
        of_block = lax.dynamic_slice_in_dim(rows, begin, block)
        logits = head_logits(params, config, hidden[of_block])  # [B, V]
        wanted = jnp.take_along_axis(
            logits, lax.dynamic_slice_in_dim(token_ids, begin, block), axis=1
        )
        logprobs = wanted - jax.nn.logsumexp(logits, axis=-1)[:, None]
        return lax.dynamic_update_slice_in_dim(out, logprobs, begin, axis=0)

    return lax.fori_loop(0, (num_rows + block - 1) // block, compute, jnp.zeros(token_ids.shape))
