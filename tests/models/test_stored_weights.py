"""Weights are those of the file, however many files and whatever dtype it has, and a step does not copy them.

If one of these fails, a model computes with other numbers than its file has, or takes twice its memory.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import AutoModelForCausalLM

from decoder_logits import IDS, assert_same_logits, our_logits, torch_logits
from huggingface_directory import save_directory
from isoprefill.models.decoder.decoder import decode
from isoprefill.models.pretrained import load_pretrained
from small_models import random_model
from unpacked_params import unpacked


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_stored_head_beside_a_tied_embedding_equals_transformers(tmp_path, factor):
    """transformers ties the two only if they are equal, whatever config.json says."""
    oracle = random_model("llama", tie_word_embeddings=True)
    directory = save_directory(oracle, tmp_path)
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["lm_head.weight"] = factor * tensors["model.embed_tokens.weight"]
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    model = load_pretrained(directory)
    assert model.config.tied_head == (factor == 1.0)
    theirs = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    assert_same_logits(model, theirs)


def test_shards_equal_one_file(tmp_path):
    oracle = random_model("llama")
    directory = save_directory(oracle, tmp_path, max_shard_size="100KB")
    assert len(list(directory.glob("*.safetensors"))) > 2
    assert_same_logits(load_pretrained(directory), oracle)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_files_load_as_float32(stored, tmp_path):
    """The values must be those of the file exactly: float32 holds every bfloat16 and float16."""
    oracle = random_model("qwen3")
    directory = save_directory(oracle, tmp_path, dtype=stored)
    model = load_pretrained(directory)
    assert model.params.layers.query.dtype == jnp.float32
    if stored == torch.bfloat16:  # so that it takes no more memory than the file
        assert model.params.layers.query.parts == 1
    assert_same_logits(model, oracle)


def test_bfloat16_parameters_give_close_logits(tmp_path):
    """bfloat16 is a real choice, not float32 under another name, and not garbage."""
    oracle = random_model("llama")
    model = load_pretrained(save_directory(oracle, tmp_path), "bfloat16")
    assert model.params.embedding.dtype == jnp.bfloat16
    difference = np.abs(our_logits(model, IDS) - torch_logits(oracle, IDS))
    assert difference.max() > 1e-3
    assert difference.mean() < 0.05 * torch_logits(oracle, IDS).std()


def test_a_step_does_not_copy_bfloat16_weights(tmp_path):
    """Left to itself, XLA converts all layers' bfloat16 weights to float32 at every call, on a CPU."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8}
    model = load_pretrained(save_directory(random_model("llama", **sizes), tmp_path), "bfloat16")
    size = model.params.layers.gate.data.nbytes

    def attend(q, k, v, _):
        return q + jnp.tile(k + v, (1, q.shape[1] // k.shape[1], 1))

    def temporary_bytes(params):
        rows = jnp.zeros(64, jnp.int32)
        compiled = (
            jax.jit(lambda params, rows: decode(params, model.config, rows, rows, attend))
            .lower(params, rows)
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(model.params) < size
    # Else there is nothing to avoid, and bits.py can go.
    assert temporary_bytes(unpacked(model.params)) > size
