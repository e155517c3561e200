"""A decoder whose projections are the TPU's kernels, here in the interpreter: its scores, and which models get them.

If one of these fails, models in bfloat16 score otherwise on a TPU than anywhere else.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isoprefill.execution.layer_kernels import layer_kernels
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.parameters import parameters_of
from isoprefill.models.decoder.decoder import decode
from isoprefill.models.weights.params import Params

QWEN = ModelConfig("qwen3", 64, 256, 384, 2, 2, 1, 128, 1e-6, 1e4, 64, tied_head=True, qk_norm=True)
LLAMA = ModelConfig("llama", 64, 256, 384, 2, 2, 1, 128, 1e-6, 1e4, 64, tied_head=True)
ROWS = 24


def random_params(config):
    rng = np.random.default_rng(0)

    def random(row):
        values = rng.standard_normal(row.shape(config), np.float32)
        return jnp.asarray(1 + 0.1 * values if row.is_norm else 0.1 * values, jnp.bfloat16)

    return Params.from_fields({field: random(row) for field, row in parameters_of(config).items()})


def causal(q, k, v, _):
    groups = q.shape[1] // k.shape[1]
    k, v = (jnp.repeat(x.astype(jnp.float32), groups, axis=1) for x in (k, v))
    scores = jnp.einsum("thd,shd->hts", q.astype(jnp.float32), k) * q.shape[-1] ** -0.5
    scores = jnp.where(jnp.tril(jnp.ones((ROWS, ROWS), bool)), scores, -jnp.inf)
    return jnp.einsum("hts,shd->thd", jax.nn.softmax(scores), v)


def hidden_states(params, config, kernels=None):
    tokens = jnp.arange(ROWS) % config.vocab_size
    with jax.default_matmul_precision("highest"):
        hidden, kv = decode(
            params, config, tokens, jnp.arange(ROWS), causal, return_kv=True, kernels=kernels
        )
    return [np.asarray(array).astype(np.float64) for array in (hidden, *kv)]


@pytest.mark.parametrize("config", [QWEN, LLAMA], ids=["qwen3", "llama"])
def test_hidden_states_are_as_exact_as_without_kernels(config):
    """Of the same weights in float32, the kernels' hidden states, keys and values are no farther than XLA's."""
    params = random_params(config)
    kernels = layer_kernels(params, config, "pallas", interpret=True)
    assert kernels.heads is not None
    assert kernels.gated is not None
    exact = hidden_states(jax.tree.map(lambda x: x.astype(jnp.float32), params), config)
    plain = hidden_states(params, config)
    for got, other, wanted in zip(
        hidden_states(params, config, kernels), plain, exact, strict=True
    ):
        error, usual = (np.sqrt(np.mean((x - wanted) ** 2)) for x in (got, other))
        assert usual < 0.02 * np.sqrt(np.mean(wanted**2))
        assert error < 1.1 * usual


def change(**fields):
    return dataclasses.replace(QWEN, **fields)


@pytest.mark.parametrize(
    ("config", "heads", "gated"),
    [
        (change(head_dim=64), False, True),  # the attention takes narrower heads in another order
        (change(rotated=64), False, True),
        (change(qkv_bias=True), False, True),
        (change(activation="gelu_tanh"), True, False),
        (change(intermediate_size=320), True, False),
        (change(hidden_size=192), False, False),
    ],
)
def test_what_a_kernel_cannot_compute_is_left_to_xla(config, heads, gated):
    params = Params.from_fields(
        {
            field: jax.ShapeDtypeStruct(row.shape(config), jnp.bfloat16)
            for field, row in parameters_of(config).items()
        }
    )
    kernels = layer_kernels(params, config, "pallas", interpret=True)
    assert (kernels.heads is not None, kernels.gated is not None) == (heads, gated)
    assert layer_kernels(params, config, "xla").heads is None


def test_float32_weights_get_no_kernels():
    params = jax.tree.map(lambda x: x.astype(jnp.float32), random_params(QWEN))
    kernels = layer_kernels(params, QWEN, "pallas", interpret=True)
    assert kernels.heads is None
    assert kernels.gated is None
