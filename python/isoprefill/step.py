"""What runs on the device: one pack at a time, padded to one of a few sizes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from isoprefill.attention import multi_item_attention
from isoprefill.attention.op import Backend, with_schedule_of
from isoprefill.head import logprobs_at
from isoprefill.layout import PackedLayout, bucket_size
from isoprefill.models.config import ModelConfig
from isoprefill.models.decoder import Params, decode
from isoprefill.packing import Piece
from isoprefill.readout import Readout


def prefill_pack(
    params: Params, config: ModelConfig, pack: Sequence[Piece], attention: Backend
) -> tuple[Readout, Float[np.ndarray, "M K"]]:
    """Computes prefixes and items of a pack in one prefill; what was asked for, and the answers."""
    layout = PackedLayout.concat(
        [
            PackedLayout.from_lengths(
                piece.prefix.size,
                [item.size for item in piece.items],
                delimiter=piece.request.delimiter,
                isolation=piece.request.isolation,
            )
            for piece in pack
        ],
        pad_to=bucket_size(sum(piece.num_rows for piece in pack)),
    )
    tokens = padded(np.concatenate([piece.tokens() for piece in pack]))
    readout = Readout.of(pack, layout.item_first_rows, layout.item_context_rows)
    layout = with_schedule_of(
        attention,
        layout,
        query_heads=config.num_query_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        dtype=params.embedding.dtype.name,
    )
    hidden = _hidden_states(params, config, tokens, layout, attention)
    return readout, read(params, config, hidden, readout)


def read(
    params: Params, config: ModelConfig, hidden: Float[Array, "T hidden"], readout: Readout
) -> Float[np.ndarray, "M K"]:
    """The log-probabilities that are asked for."""
    num_rows, width = readout.token_ids.shape
    token_ids = np.zeros((bucket_size(num_rows), _power_of_two(width)), np.int32)
    token_ids[:num_rows, :width] = readout.token_ids
    logprobs = logprobs_at(
        params, config, hidden, padded(readout.rows), np.int32(num_rows), token_ids
    )
    return np.asarray(logprobs)[:num_rows, :width]


@functools.partial(jax.jit, static_argnames=("config", "attention"))
def _hidden_states(
    params: Params,
    config: ModelConfig,
    token_ids: Int32[Array, "T"],
    layout: PackedLayout,
    attention: Backend,
) -> Float[Array, "T hidden"]:
    def attend(q: Array, k: Array, v: Array, _: None) -> Array:
        out = multi_item_attention(q, k, v, layout, backend=attention)
        assert isinstance(out, jax.Array)
        return out

    hidden, _ = decode(params, config, token_ids, jnp.asarray(layout.positions), attend)
    return hidden


def padded(array: Int32[np.ndarray, "n"]) -> Int32[np.ndarray, "bucket"]:
    """The array with zeros up to one of a few sizes."""
    return np.pad(array, (0, bucket_size(array.size) - array.size))


def _power_of_two(at_least: int) -> int:
    return 1 << max(0, at_least - 1).bit_length()
