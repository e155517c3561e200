"""The decoder computes what transformers computes, for every family and switch.

If one of these fails, scores are those of another model than the one that was asked for. Attention
is plain causal; transformers, in float32 on the same directory, is the oracle.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from decoder_logits import IDS, assert_same_logits, our_logits
from huggingface_directory import save_directory
from isoprefill.models.config.config_huggingface import config_from_huggingface
from isoprefill.models.decoder.decoder import scaled_embeddings
from isoprefill.models.decoder.rope import inverse_frequencies
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.weights.params import Params
from model_families import SETTINGS
from model_variants import VARIANTS
from small_models import random_model
from unpacked_params import unpacked


@pytest.mark.parametrize(("family", "overrides"), VARIANTS.values(), ids=VARIANTS.keys())
def test_families_equal_transformers(family, overrides, tmp_path):
    oracle = random_model(family, **overrides)
    assert_same_logits(load_pretrained(save_directory(oracle, tmp_path)), oracle)


@pytest.mark.parametrize("family", SETTINGS)
def test_every_parameter_counts(family, tmp_path):
    """Else the comparisons above could not see one that is dropped, or exchanged for another of its shape."""
    model = load_pretrained(save_directory(random_model(family), tmp_path))
    params = unpacked(model.params)
    fields = params._asdict() | params.layers._asdict()
    del fields["layers"]
    fields = {field: array for field, array in fields.items() if array is not None}
    expected = our_logits(model, IDS, params=params)

    def differs(**changed: jax.Array) -> bool:
        other = Params.from_fields(fields | changed)
        return bool(np.abs(our_logits(model, IDS, params=other) - expected).max() > 1e-2)

    if model.config.experts is not None:
        for field in ("router", "expert_gate", "expert_up", "expert_down"):  # another expert's
            assert differs(**{field: jnp.roll(fields[field], 1, axis=1)}), field
    for field, array in fields.items():
        if "bias" in field or "norm" in field or field == "sinks":
            assert differs(**{field: jnp.full_like(array, "norm" in field)}), field
        assert differs(**{field: jnp.roll(array, 1, axis=-1)}), field
        for other, same_shape in fields.items():
            if other > field and same_shape.shape == array.shape:
                assert differs(**{field: same_shape, other: array}), (field, other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gemma", "granite"])
def test_embeddings_are_scaled_as_transformers_scales_them(family, dtype):
    """Gemma rounds sqrt(66) to the dtype of the weights, Granite does not round its factor."""
    overrides = {"embedding_multiplier": 66**0.5} if family == "granite" else {}
    oracle = random_model(family, **overrides).to(getattr(torch, dtype))
    table = oracle.get_input_embeddings()
    ids = torch.tensor(IDS)
    expected = table(ids) if family == "gemma" else table(ids) * oracle.config.embedding_multiplier
    config = config_from_huggingface(oracle.config.to_dict())
    embeddings = jnp.asarray(table.weight.detach().float().numpy())[jnp.asarray(IDS)]
    found = scaled_embeddings(embeddings, config, jnp.dtype(dtype)).astype(dtype)
    np.testing.assert_array_equal(np.asarray(found, np.float32), expected.detach().float().numpy())


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_rotary_frequencies_are_rounded_as_pytorch_rounds_them(theta, dim):
    """A frequency that is off by 1e-7 is off by 3e-4 radians at position 2,000, and a log-probability by as much."""
    exponents = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
    expected = (1.0 / theta**exponents).numpy()
    found = inverse_frequencies(dim, theta, None)
    # PyTorch's power is not always the nearest float32 either.
    assert np.count_nonzero(found != expected) <= 1
    np.testing.assert_allclose(found, expected, rtol=1.2e-7)
