"""A decoder whose projections are the TPU's kernels, here in the interpreter: its scores, and which models get them.

If one of these fails, models in bfloat16 score otherwise on a TPU than anywhere else.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import small_models
from huggingface_directory import save_directory
from isoprefill import ScoringEngine
from isoprefill.execution import forward, model_runner
from isoprefill.execution.layer_kernels import layer_kernels
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.parameters import parameters_of
from isoprefill.models.decoder.decoder import LayerKernels, decode
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.weights.params import Params
from unpacked_params import unpacked

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


# The gates of test_torch_parity in bfloat16: of probabilities.
MAX_DIFF, MEAN_DIFF = 0.02, 0.01
QUERY = [3, 141, 59, 26, 53, 58, 97, 93, 238, 46]
ITEMS = [[64, 33, 83], [27], [95, 2, 88, 41, 9], [71, 69], [39, 93, 75]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model in bfloat16 whose widths the kernels take, and the log-probabilities of the same weights in float64."""
    model = small_models.random_model(
        "qwen3", hidden_size=256, intermediate_size=384, head_dim=128, num_hidden_layers=2
    )
    directory = save_directory(model, tmp_path_factory.mktemp("model"), dtype=torch.bfloat16)
    exact = model.bfloat16().double()
    with torch.inference_mode():
        rows = [
            torch.log_softmax(exact(torch.tensor([QUERY + item])).logits[0], dim=-1).numpy()
            for item in ITEMS
        ]
    return load_pretrained(directory, "bfloat16"), rows


def differences(pretrained, rows, monkeypatch, attention="pallas"):
    """Of probabilities by the kernels from those in float64: of tokens in items, and of all tokens at items' ends."""
    # A TPU's weights are neither packed nor stored as bits, as a CPU's are.
    monkeypatch.setattr(model_runner, "as_stored", lambda params: params)
    model_runner.compiled_functions.cache_clear()  # with other kernels
    plain = dataclasses.replace(pretrained, params=unpacked(pretrained.params))
    engine = ScoringEngine(plain, attention=attention)
    found = engine.score(QUERY, ITEMS, algorithm="packed")
    labels = list(range(small_models.VOCAB_SIZE))
    ends = engine.score(QUERY, ITEMS, labels, algorithm="packed").logprobs
    model_runner.compiled_functions.cache_clear()
    wanted = [
        row[np.arange(len(QUERY) - 1, len(QUERY) + len(item) - 1), item].mean()
        for item, row in zip(ITEMS, rows, strict=True)
    ]
    return (
        np.abs(np.exp(found.logprobs / found.num_tokens) - np.exp(wanted)),
        np.abs(np.exp(ends) - np.exp([row[-1] for row in rows])),
    )


def of_layers(spoil, monkeypatch):
    """Lets the decoder call `spoil(name, kernel, *arguments)` for each of its kernels, with any attention."""

    def spoiled(params, config, attention):
        kernels = layer_kernels(params, config, "pallas", interpret=True)
        return LayerKernels(
            *(functools.partial(spoil, name, getattr(kernels, name)) for name in ("heads", "gated"))
        )

    monkeypatch.setattr(forward, "layer_kernels", spoiled)


def test_scores_with_the_kernels_stay_within_the_gates_of_bfloat16(model, monkeypatch):
    """From tokens to log-probabilities, attention and layers in the TPU's kernels, against transformers in float64."""
    called = set()

    def watched(name, kernel, *arguments):
        called.add(name)
        return kernel(*arguments)

    of_layers(watched, monkeypatch)
    for difference in differences(*model, monkeypatch):
        print(f"at most {difference.max():.1e}, on average {difference.mean():.1e}")
        assert difference.max() <= MAX_DIFF
        assert difference.mean() <= MEAN_DIFF
    assert called == {"heads", "gated"}


@pytest.mark.parametrize("wrong", ["heads", "gated"])
def test_the_gates_see_a_kernel_that_is_wrong(model, wrong, monkeypatch):
    def spoil(name, kernel, *arguments):
        return kernel(*arguments) * (1.5 if name == wrong else 1)

    of_layers(spoil, monkeypatch)
    found = differences(*model, monkeypatch, attention="dense")
    assert max(difference.max() for difference in found) > MAX_DIFF
