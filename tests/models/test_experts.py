"""Of a mixture the experts that transformers chooses count, and none sees what other rows choose.

If one of these fails, an item's score depends on its neighbours, or the comparisons of families cannot see a wrong
choice.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_logits import IDS, our_logits, torch_logits
from huggingface_directory import save_directory
from isoprefill.models.decoder.decoder import GATES
from isoprefill.models.decoder.mixture import ExpertWeights, mix
from isoprefill.models.pretrained import load_pretrained
from small_models import random_model
from unpacked_params import unpacked


@pytest.mark.parametrize("change", [{"normalised": False}, {"chosen": 2}, {"chosen": 4}], ids=str)
def test_parity_detects_another_choice_of_experts(change, tmp_path):
    """Were this to fail, the tests above could not see whether shares are normalised, or how many experts count."""
    oracle = random_model("qwen3_moe")
    model = load_pretrained(save_directory(oracle, tmp_path))
    experts = dataclasses.replace(model.config.experts, **change)
    wrong = dataclasses.replace(model, config=dataclasses.replace(model.config, experts=experts))
    assert np.abs(our_logits(wrong, IDS) - torch_logits(oracle, IDS)).max() > 0.1


def test_an_expert_does_not_see_other_rows_in_xla(tmp_path):
    """Bit for bit. Other rows decide where a row stands among those of its experts, and how many these are."""
    model = load_pretrained(save_directory(random_model("qwen3_moe"), tmp_path))
    layers = jax.tree.map(lambda stacked: stacked[0], unpacked(model.params).layers)
    experts = model.config.experts
    run = jax.jit(mix, static_argnames=("experts", "gated"))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((90, model.config.hidden_size)), jnp.float32)

    def mixed(rows):
        logits = jax.vmap(lambda row: (layers.router * row).sum(axis=1))(rows)
        weights = ExpertWeights(layers.expert_gate, layers.expert_up, layers.expert_down)
        return np.asarray(run(rows, logits, weights, experts, GATES["silu"]))

    expected, kept = mixed(x), np.arange(0, 90, 3)
    for _ in range(3):
        others = jnp.asarray(rng.standard_normal(x.shape), jnp.float32).at[kept].set(x[kept])
        found = mixed(others)
        np.testing.assert_array_equal(found[kept], expected[kept])
        assert not np.any(np.delete(found, kept, axis=0) == np.delete(expected, kept, axis=0))
