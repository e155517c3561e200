"""A random model so small that what surrounds the engine shows: a Llama of two layers, with a token for each byte."""

import json
import pathlib

import numpy as np
import safetensors.numpy
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

WIDTH, INNER, HEADS, LAYERS, VOCABULARY = 64, 128, 2, 2, 257


def save_tiny_model(directory: pathlib.Path) -> pathlib.Path:
    """Writes the model as a Hugging Face directory, the same each time; returns the directory."""
    directory.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (generator.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    norm = np.ones(WIDTH, np.float32)
    tensors = {
        "model.embed_tokens.weight": matrix(VOCABULARY, WIDTH),
        "model.norm.weight": norm,
        "lm_head.weight": matrix(VOCABULARY, WIDTH),
    }
    for layer in range(LAYERS):
        begin = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            tensors[f"{begin}.self_attn.{name}_proj.weight"] = matrix(WIDTH, WIDTH)
        for name in ("gate", "up"):
            tensors[f"{begin}.mlp.{name}_proj.weight"] = matrix(INNER, WIDTH)
        tensors[f"{begin}.mlp.down_proj.weight"] = matrix(WIDTH, INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{begin}.{name}.weight"] = norm.copy()
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    config = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": WIDTH // HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
    }
    (directory / "config.json").write_text(json.dumps(config))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*alphabet, "<s>"])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"bos_token": "<s>", "add_bos_token": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory
