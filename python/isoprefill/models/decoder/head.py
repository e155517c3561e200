"""What is read from hidden states, only at the rows to read: log-probabilities by the LM head, logits of classes.

One block of rows at a time, so memory does not grow with the number of rows: all logits of 500 items of 20 tokens over
49,152 tokens would be 2 GB. With packed weights by csrc/token_logprobs.h, which keeps no logits at all.
Letters: T rows of the pack, M rows to read, K tokens at each of them, V vocabulary, B rows of a block, C classes, E
hidden_size.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from isoprefill.bits import from_bits, to_bits
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.decoder import cpu_operations
from isoprefill.models.decoder.decoder import head_weights, project
from isoprefill.models.weights.packed_weights import PackedWeights
from isoprefill.models.weights.params import Params

# Instead of a token of the vocabulary: the largest log-probability at a row, and the token that has it, as a number.
LARGEST_LOGPROB, LARGEST_TOKEN = -1, -2
ROWS_AT_ONCE = 256  # of float32 logits: 50 MB for a vocabulary of 49,152


def logprobs_at(
    params: Params,
    config: ModelConfig,
    hidden: Float[Array, "T E"],
    rows: Int32[Array, "M"],
    num_rows: Int32[Array, ""],
    token_ids: Int32[Array, "M K"],
    *,
    device: Int32[Array, ""] | int = 0,
    num_devices: int = 1,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Float[Array, "M K"]:
    """Returns log P(token_ids[m, k]) over the full vocabulary at rows[m], for the first `num_rows` of M.

    A token id may be `LARGEST_LOGPROB` or `LARGEST_TOKEN` instead.

    `rows_at_once` make a block. More read the head's weights less often, and keep more logits.
    Of `num_devices` devices each computes every so many blocks and leaves zeros elsewhere: the sum over the devices is
    the answer.
    """
    weights = head_weights(params)
    by_cpu = functools.partial(
        cpu_operations.token_logprobs, scale=config.logit_scale, soft_cap=config.logit_softcap
    )
    if isinstance(weights, PackedWeights) and num_devices == 1:
        return by_cpu(hidden, weights, rows, num_rows, token_ids)
    capacity = rows.shape[0]
    block = min(rows_at_once, capacity)
    blocks = -(-capacity // block)
    padding = (-(-blocks // num_devices) * num_devices) * block - capacity
    rows = jnp.pad(rows, (0, padding))
    token_ids = jnp.pad(token_ids, ((0, padding), (0, 0)))

    def compute(index: Int32[Array, ""], out: Float[Array, "M K"]) -> Float[Array, "M K"]:
        begin = (index * num_devices + device) * block
        rows_of_block = lax.dynamic_slice_in_dim(rows, begin, block)
        tokens = lax.dynamic_slice_in_dim(token_ids, begin, block)  # [B, K]
        if isinstance(weights, PackedWeights):
            count = jnp.asarray(block, jnp.int32)
            logprobs = by_cpu(hidden, weights, rows_of_block, count, tokens)
        else:
            states = from_bits(to_bits(hidden)[rows_of_block])  # [B, E]
            logprobs = _by_xla(logits_of(states, weights, config), tokens)
        return lax.dynamic_update_slice_in_dim(out, logprobs, begin, axis=0)

    rounds = (num_rows + block * num_devices - 1) // (block * num_devices)
    out = lax.fori_loop(0, rounds, compute, jnp.zeros(token_ids.shape))
    return out[:capacity]


def logits_of(
    states: Float[Array, "B E"], weights: Float[Array, "V E"] | PackedWeights, config: ModelConfig
) -> Float[Array, "B V"]:
    """Returns the logits at hidden states."""
    logits = project(states, weights) * config.logit_scale
    if config.logit_softcap is None:
        return logits
    return config.logit_softcap * jnp.tanh(logits / config.logit_softcap)


def states_at(hidden: Float[Array, "T E"], rows: Int32[Array, "M"]) -> Float[Array, "M E"]:
    """Returns the hidden states at some rows."""
    return from_bits(to_bits(hidden)[rows])


def class_logits_at(
    params: Params, hidden: Float[Array, "T E"], rows: Int32[Array, "M"]
) -> Float[Array, "M C"]:
    """Returns the logits of all classes at some rows, float32."""
    assert params.class_head is not None
    weights = params.class_head
    if not isinstance(weights, PackedWeights):
        weights = from_bits(weights)
    logits = project(states_at(hidden, rows), weights)
    if params.class_bias is None:
        return logits
    return logits + from_bits(params.class_bias).astype(jnp.float32)


def _by_xla(logits: Float[Array, "B V"], token_ids: Int32[Array, "B K"]) -> Float[Array, "B K"]:
    totals = jax.nn.logsumexp(logits, axis=-1)[:, None]
    wanted = jnp.take_along_axis(logits, jnp.maximum(token_ids, 0), axis=1) - totals

    def with_largest() -> Float[Array, "B K"]:
        largest = jnp.max(logits, axis=-1, keepdims=True) - totals
        token = jnp.argmax(logits, axis=-1, keepdims=True).astype(jnp.float32)
        return jnp.where(
            token_ids == LARGEST_LOGPROB,
            largest,
            jnp.where(token_ids == LARGEST_TOKEN, token, wanted),
        )

    return lax.cond(jnp.any(token_ids < 0), with_largest, lambda: wanted)
