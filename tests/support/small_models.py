"""Small random models, saved by transformers as Hugging Face directories or by gguf as GGUF files.

Every parameter is random, norms and biases included, so that a loader or decoder that drops or
swaps one is seen.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

from isoprefill.models.architectures import ARCHITECTURES
from isoprefill.models.packed_weights import PackedWeights, unpack
from isoprefill.models.params import Params
from isoprefill.models.pretrained import load_pretrained

VOCAB_SIZE = 300  # 256 bytes, one special token, the rest unused


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = tuple(ARCHITECTURES)
# What is compared with transformers: family, and arguments of its configuration. Every family is here.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "llama, tied head": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True}),
    "llama, one KV head": ("llama", {"num_key_value_heads": 1}),
    "llama, linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, wide window": ("mistral", {"sliding_window": 512}),
    "qwen2, tied head": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, window switched off": ("qwen2", {"sliding_window": 64, "use_sliding_window": False}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3, biases": ("qwen3", {"attention_bias": True}),
}
# The same from a GGUF file.
GGUF_VARIANTS = {name: VARIANTS[name] for name in (*FAMILIES, "llama, tied head", "llama, biases")}
# GGUF's architectures whose rows of q and k llama.cpp's converter reorders; not from the table, which this judges.
INTERLEAVED = ("llama",)


def small_config(family: str, **overrides: Any) -> transformers.PreTrainedConfig:
    """Makes a configuration: 3 layers, 4 query and 2 KV heads of 24 (not 64 / 4), 64 wide.

    Args:
        family: one of FAMILIES.
        **overrides: arguments of the family's transformers configuration.
    """
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "pad_token_id": 256,
    }
    return transformers.AutoConfig.for_model(family, **settings | overrides)


def random_model(family: str, **overrides: Any) -> torch.nn.Module:
    """Makes a random model of `small_config`, float32."""
    config = small_config(family, **overrides)
    config._attn_implementation = "eager"
    return _randomised(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def random_classifier(family: str, bias: bool = False, **overrides: Any) -> torch.nn.Module:
    """Makes a random `…ForSequenceClassification` of `small_config`, float32.

    Args:
        family: one of FAMILIES.
        bias: give the head one, which transformers' own heads do not have.
        **overrides: arguments of the configuration, `num_labels`, `id2label` and `problem_type` among them.
    """
    config = small_config(family, **overrides)
    config._attn_implementation = "eager"
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_config(config, dtype=torch.float32)
    if bias:
        model.score = torch.nn.Linear(config.hidden_size, config.num_labels)
    return _randomised(model)


def _randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the model with every parameter random: norms about 1, all else about 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.2 * noise if "norm" in name else 0.12 * noise)
    return model.eval()


def save_directory(
    model: torch.nn.Module,
    directory: Path,
    max_shard_size: str = "1GB",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Saves a model and its tokenizer as a Hugging Face directory; returns the directory.

    With a narrower dtype the model's own parameters are rounded too, so that it stays the oracle.
    """
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    stored = {
        name: parameter.to(dtype)
        for name, parameter in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    model.save_pretrained(directory, state_dict=stored, max_shard_size=max_shard_size)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    tokenizer_config = {"bos_token": "<s>", "add_bos_token": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return directory


def unpacked(params: Params) -> Params:
    """Returns weights as plain arrays, as devices other than a CPU have them."""

    def plain(weights: Any) -> Any:
        array = unpack(weights) if isinstance(weights, PackedWeights) else np.asarray(weights)
        return jnp.asarray(array.view(jnp.bfloat16) if array.dtype == np.uint16 else array)

    return jax.tree.map(plain, params, is_leaf=lambda leaf: isinstance(leaf, PackedWeights))


def byte_tokenizer() -> tokenizers.Tokenizer:
    """A tokenizer with a token for each byte and "<s>" (256)."""
    vocab = {token: index for index, token in enumerate(byte_alphabet())}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE, in a fixed order."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def save_gguf(
    model: torch.nn.Module,
    path: Path,
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    extra_metadata: dict[str, Any] | None = None,
    extra_tensors: dict[str, np.ndarray] | None = None,
    leave_out: str | None = None,
) -> Path:
    """Writes a GGUF file with the names, order and head layout of llama.cpp's converter.

    Args:
        model: from `random_model`.
        path: the file to write.
        quantization: of the matrices; norms and biases are float32, as llama.cpp has them.
        extra_metadata: more key-value pairs; they win over the model's.
        extra_tensors: more tensors.
        leave_out: name of a tensor to leave out.
    """
    config = model.config
    arch = "llama" if config.model_type == "mistral" else config.model_type
    tokens = [*byte_alphabet(), "<s>", "ĠĠ"]
    tokens += [f"[PAD{index}]" for index in range(len(tokens), config.vocab_size)]
    metadata: dict[str, Any] = {
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.attention.value_length": config.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3, 1] + [5] * (config.vocab_size - 258),
        "tokenizer.ggml.merges": ["Ġ Ġ"],
        "tokenizer.ggml.bos_token_id": 256,
    }
    writer = gguf.GGUFWriter(path, arch)
    for key, value in (metadata | (extra_metadata or {})).items():
        _add_metadata(writer, key, value)
    for name, values in (_gguf_tensors(model, arch) | (extra_tensors or {})).items():
        if name == leave_out:
            continue
        matrix = values.ndim == 2
        kind = quantization if matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_tensors(model: torch.nn.Module, arch: str) -> dict[str, np.ndarray]:
    config = model.config
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors = {}
    for name, parameter in model.state_dict().items():
        values = parameter.numpy()
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if arch in INTERLEAVED and ".q_proj." in name:
            values = _interleave(values, config.num_attention_heads)
        if arch in INTERLEAVED and ".k_proj." in name:
            values = _interleave(values, config.num_key_value_heads)
        if name.startswith("score."):
            tensors[name.replace("score", "cls.output")] = values
            continue
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias")) or name] = values
    return tensors


def _interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order: the rows i and i + head_dim / 2 of a head become neighbours."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _add_metadata(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def assert_refused(source: object, message: str, **options: str) -> None:
    """Asserts that a model does not load, and that one line says why."""
    with pytest.raises(ValueError, match=message) as raised:
        load_pretrained(source, **options)
    assert "\n" not in str(raised.value)
