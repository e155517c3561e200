"""Logits of every token, from the decoder with plain causal attention and from transformers."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import torch

from isoprefill.models.config.config import ModelConfig
from isoprefill.models.decoder.decoder import decode, head_weights
from isoprefill.models.decoder.head import logits_of
from isoprefill.models.pretrained import Pretrained
from isoprefill.models.weights.params import Params
from small_models import VOCAB_SIZE
from unpacked_params import unpacked

IDS = tuple(int(i) for i in np.random.default_rng(0).integers(0, VOCAB_SIZE, 90))


def causal_attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    of_layer: tuple[jax.Array, jax.Array | None] | None,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> jax.Array:
    """Plain causal attention over all rows, or over as many as the window has; with sinks if there are."""
    window, sinks = (None, None) if of_layer is None else of_layer
    group = q.shape[1] // k.shape[1]
    k, v = (jnp.repeat(x, group, axis=1) for x in (k, v))
    logits = jnp.einsum("thd,shd->hts", q, k, precision="highest")
    logits *= scale or q.shape[-1] ** -0.5
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    visible = jnp.tri(q.shape[0], dtype=bool)
    if window is not None:
        rows = jnp.arange(q.shape[0])
        visible &= rows > rows[:, None] - window
    logits = jnp.where(visible, logits, -jnp.inf)
    if sinks is not None:  # a column more, whose value is 0
        column = jnp.broadcast_to(sinks[:, None, None], (*logits.shape[:2], 1))
        logits = jnp.concatenate([logits, column], axis=-1)
        v = jnp.concatenate([v, jnp.zeros((1, *v.shape[1:]))])
    return jnp.einsum("hts,shd->thd", jax.nn.softmax(logits), v, precision="highest")


@functools.partial(jax.jit, static_argnames="config")
def all_logits(
    params: Params, config: ModelConfig, token_ids: jax.Array, positions: jax.Array
) -> jax.Array:
    attend = functools.partial(
        causal_attend, scale=config.query_scale, soft_cap=config.score_softcap
    )
    rows = token_ids.size
    windows = jnp.asarray([window or rows for window in config.layer_windows])
    cache = (windows, params.layers.sinks)
    hidden, _ = decode(params, config, token_ids, positions, attend, cache)
    return logits_of(hidden, head_weights(params), config)


# Small models take longer to compile than to run, and a third of the time without optimising.
quick_logits = jax.jit(
    all_logits.__wrapped__,
    static_argnames="config",
    compiler_options={"xla_backend_optimization_level": 0},
)


def our_logits(
    model: Pretrained,
    token_ids: Sequence[int],
    first_position: int = 0,
    params: Params | None = None,
) -> np.ndarray:
    # Rows after the last are invisible to the others; padding to few lengths saves compilations.
    ids = jnp.pad(jnp.asarray(token_ids, jnp.int32), (0, -len(token_ids) % 64))
    positions = first_position + jnp.arange(ids.size, dtype=jnp.int32)
    logits_of_all = quick_logits if model.config.num_layers < 10 else all_logits
    logits = logits_of_all(params or model.params, model.config, ids, positions)
    return np.asarray(logits)[: len(token_ids)]


@torch.inference_mode()
def torch_logits(
    model: torch.nn.Module, token_ids: Sequence[int], first_position: int = 0
) -> np.ndarray:
    ids = torch.tensor([list(token_ids)])
    positions = first_position + torch.arange(ids.shape[1])[None]
    return model(ids, position_ids=positions).logits[0].float().numpy()


def assert_same_logits(model: Pretrained, oracle: torch.nn.Module, limit: float = 1e-3) -> None:
    expected = torch_logits(oracle, IDS)
    assert np.ptp(expected) > 1.0, "logits so small that parity would say nothing"
    assert np.abs(our_logits(model, IDS) - expected).max() <= limit
    # The decoder as XLA computes it, which is what runs on other devices.
    by_xla = our_logits(model, IDS, params=unpacked(model.params))
    assert np.abs(by_xla - expected).max() <= limit
