"""Keys and values of a text, and what continues from them, are those of transformers.

If one of these fails, every item behind a cached prefix has another score than behind the same text.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from decoder_logits import IDS, causal_attend, torch_logits
from huggingface_directory import save_directory
from isoprefill.models.decoder.decoder import decode, head_weights, project
from isoprefill.models.pretrained import load_pretrained
from small_models import random_model


def test_keys_and_values_equal_transformers(tmp_path):
    """They are what a prefix cache holds: wrong ones would be wrong for every later item."""
    oracle = random_model("qwen3")
    model = load_pretrained(save_directory(oracle, tmp_path))
    positions = jnp.arange(len(IDS), dtype=jnp.int32)
    ids = jnp.asarray(IDS, jnp.int32)
    run = jax.jit(decode, static_argnames=("config", "attend", "return_kv"))
    _, kv = run(model.params, model.config, ids, positions, causal_attend, return_kv=True)
    with torch.inference_mode():
        cache = oracle(torch.tensor([IDS]), use_cache=True).past_key_values
    for layer in range(model.config.num_layers):
        for ours, theirs in zip(
            kv, (cache.layers[layer].keys, cache.layers[layer].values), strict=True
        ):
            np.testing.assert_allclose(ours[layer], theirs[0].transpose(0, 1), atol=1e-4)


def test_each_layer_attends_with_its_own_cache(tmp_path):
    """A cached prefix continues to the same logits as the whole text at once."""
    oracle = random_model("llama")
    model = load_pretrained(save_directory(oracle, tmp_path))
    ids = jnp.asarray(IDS, jnp.int32)
    positions = jnp.arange(len(IDS), dtype=jnp.int32)
    run = jax.jit(decode, static_argnames=("config", "attend", "return_kv"))
    _, cache = run(
        model.params, model.config, ids[:50], positions[:50], causal_attend, return_kv=True
    )

    def attend(q, k, v, layer_cache):
        keys, values = (jnp.concatenate(pair) for pair in zip(layer_cache, (k, v), strict=True))
        queries = jnp.concatenate([jnp.zeros((50, *q.shape[1:])), q])
        return causal_attend(queries, keys, values, None)[50:]

    hidden, kv = run(model.params, model.config, ids[50:], positions[50:], attend, cache)
    assert kv is None
    logits = project(hidden, head_weights(model.params))
    assert np.abs(logits - torch_logits(oracle, IDS)[50:]).max() <= 1e-3
