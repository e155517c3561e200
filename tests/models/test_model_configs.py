"""A configuration is read as transformers and llama.cpp mean it, or refused if the decoder computes something else.

If one of these fails, scores are those of another model than the one that was asked for.
"""

import dataclasses

import pytest

from isoprefill.models.config import ModelConfig
from isoprefill.models.config_gguf import config_from_gguf
from isoprefill.models.config_huggingface import config_from_huggingface

CONFIG = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}


# config.json


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "gpt2"},
            r"'gpt2' is not supported; supported: llama, mistral, qwen2, qwen3",
        ),
        ({"model_type": None}, r"architecture None is not supported"),
        ({"vocab_size": None}, r"configuration has no vocab_size"),
        ({"vocab_size": "many"}, r"vocab_size must be a number, got 'many'"),
        ({"num_hidden_layers": 0}, r"num_layers must be a positive integer, got 0"),
        ({"num_attention_heads": 0}, r"num_query_heads must be a positive integer, got 0"),
        (
            {"num_key_value_heads": 3},
            r"num_query_heads must be a multiple of num_kv_heads = 3, got 4",
        ),
        ({"head_dim": 15}, r"head_dim must be even for RoPE, got 15"),
        ({"rms_norm_eps": 0.0}, r"rms_norm_eps must be a positive finite float, got 0\.0"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu' is not supported; supported: silu"),
        ({"mlp_bias": True}, r"mlp_bias"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor must be 1, got 0\.5"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            r"rope scaling 'yarn' is not supported",
        ),
        ({"rope_scaling": {"type": "linear"}}, r"has no factor"),
        (
            {"rope_scaling": {"type": "linear", "factor": 0.5}},
            r"factor must be at least 1, got 0\.5",
        ),
        (
            {"model_type": "mistral", "sliding_window": 128},
            r"sliding-window .* window is 128, less than its 512 positions",
        ),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 128},
            r"window is 128, less than its 512 positions",
        ),
        (
            {"model_type": "mistral", "max_position_embeddings": 4097},
            r"window is 4096, less than its 4097 positions",
        ),
        (
            {
                "model_type": "qwen3",
                "use_sliding_window": True,
                "max_position_embeddings": 4097,
            },
            r"window is 4096, less than its 4097 positions",
        ),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]},
            r"layer_types.*'sliding_attention'",
        ),
    ],
)
def test_config_json_that_means_another_computation_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config_from_huggingface(CONFIG | change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"head_dim": 16, "rope_theta": 10_000.0, "tied_head": False, "qkv_bias": False}),
        ({"num_key_value_heads": None}, {"num_kv_heads": 4}),
        ({"rope_theta": 5e5}, {"rope_theta": 5e5}),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, {"rope_theta": 5e5}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_frequency_divisors": (2.0,) * 8},
        ),
        ({"attention_bias": True}, {"qkv_bias": True, "output_bias": True}),
        ({"model_type": "qwen2"}, {"qkv_bias": True, "output_bias": False, "qk_norm": False}),
        ({"model_type": "qwen3"}, {"head_dim": 128, "qk_norm": True}),
        ({"model_type": "mistral", "sliding_window": 512}, {"qkv_bias": False}),
        (
            {"model_type": "mistral", "sliding_window": None, "max_position_embeddings": 4097},
            {"max_positions": 4097},
        ),
        ({"model_type": "qwen2", "max_position_embeddings": 4097}, {"max_positions": 4097}),
        (
            {"use_sliding_window": True, "max_position_embeddings": 4097},
            {"max_positions": 4097},
        ),
        ({"tie_word_embeddings": True}, {"tied_head": True}),
    ],
)
def test_config_json_of_either_transformers_version_is_read(change, expected):
    config = dataclasses.asdict(config_from_huggingface(CONFIG | change))
    assert {name: config[name] for name in expected} == expected


def test_config_is_hashable_and_checks_itself():
    """It is a static argument under jit: equal configurations must share one compilation."""
    config = config_from_huggingface(CONFIG)
    assert hash(config) == hash(config_from_huggingface(dict(CONFIG)))
    with pytest.raises(ValueError, match=r"must hold head_dim / 2 = 8 numbers, got 1"):
        dataclasses.replace(config, rope_frequency_divisors=(1.0,))
    with pytest.raises(ValueError, match=r"rope_frequency_divisors must be positive"):
        dataclasses.replace(config, rope_frequency_divisors=(0.0,) * 8)
    with pytest.raises(ValueError, match=r"architecture 'bert' is not supported"):
        dataclasses.replace(config, architecture="bert")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 0.5}, r"factor must be at least 1, got 0\.5"),
        ({"low_freq_factor": 4.0}, r"high_freq_factor > low_freq_factor > 0, got 4\.0 and 4\.0"),
    ],
)
def test_llama3_rope_scaling_that_makes_no_sense_is_refused(change, message):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    with pytest.raises(ValueError, match=message):
        config_from_huggingface(CONFIG | {"rope_scaling": scaling | change})


# A GGUF file's metadata


def gguf_metadata(**changes: object) -> dict[str, object]:
    metadata = {
        "general.architecture": "llama",
        "llama.context_length": 512,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": 300,
    }
    return metadata | {key.replace("__", "."): value for key, value in changes.items()}


def read_gguf_config(
    metadata: dict[str, object], divisors: tuple[float, ...] | None = None
) -> ModelConfig:
    return config_from_gguf(metadata, (), divisors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general__architecture": "gemma3"}, r"'gemma3' is not supported; supported: llama, .*"),
        ({"llama__context_length": None}, r"has no llama\.context_length"),
        ({"llama__attention__head_count": 0}, r"num_query_heads must be a positive integer, got 0"),
        ({"llama__expert_count": 8}, r"expert_count must be 0, got 8"),
        ({"llama__attention__sliding_window": 128}, r"window is 128, less than its 512 positions"),
        ({"llama__rope__scaling__type": "yarn"}, r"rope scaling 'yarn' is not supported"),
        ({"llama__rope__dimension_count": 8}, r"dimension_count must equal head_dim 16, got 8"),
        (
            {"llama__attention__value_length": 8},
            r"value_length must equal the key length 16, got 8",
        ),
    ],
)
def test_gguf_metadata_that_means_another_computation_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_gguf_config(gguf_metadata(**change))


def test_gguf_rope_scaling_is_read():
    linear = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 2.0}
    assert read_gguf_config(gguf_metadata(**linear)).rope_frequency_divisors == (2.0,) * 8
    llama3 = (1.0,) * 7 + (8.0,)
    assert read_gguf_config(gguf_metadata(), llama3).rope_frequency_divisors == llama3
    with pytest.raises(ValueError, match=r"rope_freqs\.weight together with linear"):
        read_gguf_config(gguf_metadata(**linear), llama3)
