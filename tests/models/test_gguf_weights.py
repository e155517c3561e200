"""A model's GGUF file gives what its directory gives, and quantised values what they stand for.

If one of these fails, the same model scores otherwise from one kind of file than from the other.
"""

import dataclasses

import gguf
import jax
import numpy as np
import pytest
import torch

from decoder_logits import assert_same_logits
from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.pretrained import load_pretrained
from model_variants import GGUF_VARIANTS, LLAMA3_ROPE
from small_models import random_model


@pytest.mark.parametrize(("family", "overrides"), GGUF_VARIANTS.values(), ids=GGUF_VARIANTS.keys())
def test_gguf_equals_the_directory(family, overrides, tmp_path):
    """What one architecture's file has and another's has not: the same numbers come out, to the bit.

    The norms of 1 + w are added up by llama.cpp's converter, the rows of q and k reordered.
    """
    oracle = random_model(family, **overrides)
    ours = load_pretrained(save_gguf(oracle, tmp_path / "small.gguf"))
    theirs = load_pretrained(save_directory(oracle, tmp_path / "directory"))
    for field in dataclasses.fields(ModelConfig):
        if field.name == "architecture":  # Mistral's is Llama's
            continue
        one, other = (getattr(model.config, field.name) for model in (ours, theirs))
        numbers = np.asarray(one).dtype.kind == "f"
        assert numbers or one == other, field.name
        if numbers:  # GGUF stores them in float32
            np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=field.name)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_quantised_gguf_equals_its_dequantised_values(kind, tmp_path):
    quantization = gguf.GGMLQuantizationType[kind]
    oracle = random_model("llama", intermediate_size=64, head_dim=32)
    path = save_gguf(oracle, tmp_path / "small.gguf", quantization)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if "norm" not in name:
                packed = gguf.quants.quantize(parameter.numpy(), quantization)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(packed, quantization)))
    assert_same_logits(load_pretrained(path), oracle)


def test_gguf_llama3_rope_equals_transformers(tmp_path):
    """Llama 3 files carry the scaling as a tensor of divisors, one a pair."""
    oracle = random_model("llama", rope_parameters=LLAMA3_ROPE)
    plain = random_model("llama").model.rotary_emb.inv_freq
    divisors = (plain / oracle.model.rotary_emb.inv_freq).numpy()
    path = save_gguf(oracle, tmp_path / "small.gguf", extra_tensors={"rope_freqs.weight": divisors})
    assert_same_logits(load_pretrained(path), oracle)
