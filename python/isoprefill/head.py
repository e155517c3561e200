"""Log-probabilities from hidden states: the LM head, only at the rows asked for.

Logits are made for one block of rows at a time, so memory does not grow with the number of rows: all logits of
500 items of 20 tokens over 49,152 tokens would be 2 GB. Letters: T rows of the pack, M rows asked for, L labels,
V vocabulary, B rows of a block.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from isoprefill.models.config import ModelConfig
from isoprefill.models.decoder import Params, head_logits

ROWS_AT_ONCE = 256  # of float32 logits: 50 MB for a vocabulary of 49,152


@functools.partial(jax.jit, static_argnames="config")
def label_logprobs(
    params: Params,
    config: ModelConfig,
    hidden: Float[Array, "T hidden"],
    rows: Int32[Array, "M"],
    num_rows: Int32[Array, ""],
    label_ids: Int32[Array, "L"],
) -> Float[Array, "M L"]:
    """log P(label) over the full vocabulary at each of the first `num_rows` rows; the rest of M is padding."""

    def of_block(logits: Float[Array, "B V"], _: Int32[Array, "B"]) -> Float[Array, "B L"]:
        return logits[:, label_ids] - jax.nn.logsumexp(logits, axis=-1)[:, None]

    shape = (*rows.shape, *label_ids.shape)
    return _by_blocks(params, config, hidden, rows, num_rows, jnp.zeros(shape), of_block)


@functools.partial(jax.jit, static_argnames="config")
def token_logprobs(
    params: Params,
    config: ModelConfig,
    hidden: Float[Array, "T hidden"],
    rows: Int32[Array, "M"],
    num_rows: Int32[Array, ""],
    token_ids: Int32[Array, "M"],
) -> Float[Array, "M"]:
    """log P(token_ids[m]) at rows[m], for the first `num_rows` of M."""

    def of_block(logits: Float[Array, "B V"], places: Int32[Array, "B"]) -> Float[Array, "B"]:
        wanted = jnp.take_along_axis(logits, token_ids[places][:, None], axis=1)[:, 0]
        return wanted - jax.nn.logsumexp(logits, axis=-1)

    return _by_blocks(params, config, hidden, rows, num_rows, jnp.zeros(rows.shape), of_block)


def _by_blocks(
    params: Params,
    config: ModelConfig,
    hidden: Float[Array, "T hidden"],
    rows: Int32[Array, "M"],
    num_rows: Int32[Array, ""],
    out: Float[Array, "M ..."],
    of_block: Callable[[Float[Array, "B V"], Int32[Array, "B"]], Float[Array, "B ..."]],
) -> Float[Array, "M ..."]:
    block = min(ROWS_AT_ONCE, rows.shape[0])

    def compute(index: Int32[Array, ""], out: Float[Array, "M ..."]) -> Float[Array, "M ..."]:
        # The last block may begin early and compute some rows twice; they come out the same.
        begin = jnp.minimum(index * block, rows.shape[0] - block)
        places = begin + jnp.arange(block, dtype=jnp.int32)
        logits = head_logits(params, config, hidden[rows[places]])
        return lax.dynamic_update_slice_in_dim(out, of_block(logits, places), begin, axis=0)

    return lax.fori_loop(0, (num_rows + block - 1) // block, compute, out)
