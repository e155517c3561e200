"""Models that sglang-jax loads, in Hugging Face's format: a small random Qwen3, and SmolLM2-135M from our GGUF file.

SmolLM2 gets heads of 128 in place of 64, without a change of what it computes: on a CPU sglang-jax's own attention is
wrong about heads that its cache pads.
"""

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy
import tokenizers
from tokenizers import decoders, pre_tokenizers, trainers

from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.parameters import PARAMETERS, parameters_of
from isoprefill.models.files.gguf_file import load_gguf
from isoprefill.models.files.gguf_split import read_headers
from isoprefill.models.sources import pinned
from isoprefill.models.tokenizers.tokenizer_gguf import tokenizer_from_gguf
from isoprefill.models.weights.params import Params

QWEN3 = ModelConfig(
    architecture="qwen3",
    vocab_size=512,
    hidden_size=256,
    intermediate_size=512,
    num_layers=2,
    num_query_heads=4,
    num_kv_heads=2,
    head_dim=128,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    max_positions=2048,
    qk_norm=True,
)
TEXT = (pathlib.Path(__file__).read_text(), "The capital of France is Paris. " * 4)


def save_model(name: str, directory: pathlib.Path) -> None:
    """Writes config, weights (float32, the same each time) and tokenizer of "qwen3" or "smollm2-135m"."""
    directory.mkdir(parents=True)
    if name == "qwen3":
        config, params, tokenizer = QWEN3, random_params(QWEN3), _small_tokenizer()
    else:
        file = pinned.locate(name)
        header = read_headers(file)
        config, params = widen_heads(*load_gguf(header, "float32"), head_dim=128)
        tokenizer = tokenizer_from_gguf(header.metadata).backend
    (directory / "config.json").write_text(json.dumps(_huggingface_config(config)))
    safetensors.numpy.save_file(_huggingface_tensors(params), directory / "model.safetensors")
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )


def random_params(config: ModelConfig) -> Params:
    """Returns weights whose activations keep their size; norms of 1."""
    generator = np.random.default_rng(0)
    weights = {}
    for field, parameter in parameters_of(config).items():
        shape = parameter.shape(config)
        if field.endswith("norm"):
            weights[field] = np.ones(shape, np.float32)
        else:
            matrices = generator.standard_normal(shape) / math.sqrt(shape[-1])
            weights[field] = matrices.astype(np.float32)
    return Params.from_fields(weights)


def widen_heads(
    config: ModelConfig, params: Params, *, head_dim: int
) -> tuple[ModelConfig, Params]:
    """The same function with wider heads: what is new in them is zero.

    RoPE turns pairs (i, i + D / 2) by theta^(-2i / D), so both halves of a head are padded and theta grows; queries
    take up the change of the scale 1 / sqrt(D).
    """
    old, layers = config.head_dim, params.layers
    scale = np.float32(math.sqrt(head_dim / old))

    def widen(matrix: np.ndarray, axis: int) -> np.ndarray:
        shape = matrix.shape
        halves = matrix.reshape(*shape[:axis], -1, 2, old // 2, *shape[axis + 1 :])
        padding = [(0, 0)] * halves.ndim
        padding[axis + 2] = (0, (head_dim - old) // 2)
        return np.pad(halves, padding).reshape(*shape[:axis], -1, *shape[axis + 1 :])

    wider = layers._replace(
        query=widen(np.asarray(layers.query), 1) * scale,
        key=widen(np.asarray(layers.key), 1),
        value=widen(np.asarray(layers.value), 1),
        output=widen(np.asarray(layers.output), 2),
    )
    theta = config.rope_theta ** (head_dim / old)
    return (
        dataclasses.replace(config, head_dim=head_dim, rope_theta=theta),
        params._replace(layers=wider),
    )


def _huggingface_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_query_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tied_head,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }


def _huggingface_tensors(params: Params) -> dict[str, np.ndarray]:
    fields = params._asdict() | params.layers._asdict()
    tensors = {}
    for field, parameter in PARAMETERS.items():
        if fields[field] is not None:
            weights = np.asarray(fields[field])
            for layer, tensor in enumerate(weights if parameter.stacked else [weights]):
                tensors[parameter.huggingface.format(layer=layer)] = tensor
    return tensors


def _small_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=QWEN3.vocab_size,
            special_tokens=["<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer
