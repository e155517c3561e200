"""Small random models in Hugging Face's format, for running sglang-jax without a download."""

import json
import math
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy
import tokenizers
from tokenizers import decoders, pre_tokenizers, trainers

VOCAB = 512
TEXT = (pathlib.Path(__file__).read_text(), "The capital of France is Paris. " * 4)

SHARED = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 2,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "float32",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
    },
    # SmolLM2-135M's heads: 9 query and 3 KV heads of 64, which the cache pads to 128.
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "rope_theta": 1e5,
        "tie_word_embeddings": True,
    },
}


def save_model(name: str, directory: pathlib.Path) -> None:
    """Writes config, weights (float32, the same each time) and tokenizer of a model of `CONFIGS`."""
    config = SHARED | CONFIGS[name]
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(_weights(config), directory / "model.safetensors")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=["<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"})
    )


def _weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    generator = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (generator.standard_normal((rows, columns)) / math.sqrt(columns)).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(VOCAB, hidden),
        "model.norm.weight": np.ones(hidden, np.float32),
    }
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(VOCAB, hidden)
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{name}{norm}.weight"] = np.ones(hidden, np.float32)
        if config["model_type"] == "qwen3":
            for norm in ("q_norm", "k_norm"):
                weights[f"{name}self_attn.{norm}.weight"] = np.ones(head, np.float32)
        for projection, rows, columns in (
            ("self_attn.q_proj", queries, hidden),
            ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden),
            ("self_attn.o_proj", hidden, queries),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ):
            weights[f"{name}{projection}.weight"] = matrix(rows, columns)
    return weights
