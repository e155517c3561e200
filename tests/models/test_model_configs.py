"""A configuration is read as transformers and llama.cpp mean it, or refused if the decoder computes something else.

If one of these fails, scores are those of another model than the one that was asked for.
"""

import dataclasses
import math

import pytest

from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.config_gguf import config_from_gguf
from isoprefill.models.config.config_huggingface import config_from_huggingface
from isoprefill.models.config.experts import Experts

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


GPT_OSS = {"model_type": "gpt_oss", "num_local_experts": 4}
MIXTURE = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}


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
        ({"num_hidden_layers": 0}, r"num_hidden_layers must be from 1 to 10000, got 0"),
        ({"num_attention_heads": 0}, r"num_attention_heads must be from 1 to 65536, got 0"),
        (
            {"num_key_value_heads": 3},
            r"num_query_heads must be a multiple of num_kv_heads = 3, got 4",
        ),
        ({"head_dim": 15}, r"head_dim must be even for RoPE, got 15"),
        ({"rms_norm_eps": 0.0}, r"rms_norm_eps must be a positive finite float, got 0\.0"),
        (
            {"hidden_act": "gelu"},
            r"hidden_act 'gelu' is not supported; supported: silu, gelu_pytorch_tanh",
        ),
        ({"mlp_bias": True}, r"mlp_bias"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor must be 1, got 0\.5"),
        ({"rope_scaling": {"type": "proportional"}}, r"rope scaling 'proportional' is not"),
        ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, r"factor must be at least 1, got 0\.5"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_slow": 40.0}},
            r"beta_fast >= beta_slow > 0, got 32\.0 and 40\.0",
        ),
        ({"rope_scaling": {"type": "dynamic"}}, r"has no factor"),
        (
            {"rope_scaling": {"type": "longrope", "factor": 2.0, "short_factor": "1"}},
            r"short_factor must be a list of numbers, got '1'",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            r"rope_parameters of each kind of layers are not supported in a llama model",
        ),
        ({"rope_scaling": {"type": "linear"}}, r"has no factor"),
        (
            {"rope_scaling": {"type": "linear", "factor": 0.5}},
            r"factor must be at least 1, got 0\.5",
        ),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]},
            r"layer_types has 'sliding_attention' where a qwen3 model .* has no sliding window",
        ),
        ({"layer_types": ["chunked_attention"] * 2}, r"layer_types must be .*'chunked_attention'"),
        ({"layer_types": ["full_attention"]}, r"layer_types must hold a name for each of 2 layers"),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, r"use_bidirectional"),
        ({"model_type": "gemma2", "hidden_activation": "gelu"}, r"hidden_activation 'gelu' is not"),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 0}, r"must be positive, got 0"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 9.0}, r"must be null .* got 9"),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {"sliding_attention": {"rope_type": "linear"}},
            },
            r"rope scaling 'linear' of 'sliding_attention' layers",
        ),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, r"no_rope_layers must hold a number"),
        ({"model_type": "smollm3", "no_rope_layer_interval": 0}, r"interval must be a positive"),
        ({"model_type": "gemma3"}, r"'gemma3' is not supported"),
        ({"model_type": "qwen2_moe"}, r"'qwen2_moe' is not supported"),
        ({"model_type": "qwen3_moe"}, r"configuration has no num_experts"),
        (MIXTURE | {"num_experts_per_tok": 5}, r"each row must be at most 4, .* got 5"),
        (MIXTURE | {"num_experts_per_tok": 0}, r"experts' chosen must be a positive .* got 0"),
        (MIXTURE | {"moe_intermediate_size": 0}, r"experts' width must be a positive .* got 0"),
        (MIXTURE | {"num_local_experts": 8}, r"num_local_experts must be equal, got \[4, 8\]"),
        (
            MIXTURE | {"mlp_only_layers": [0]},
            r"of all layers or of none, but layers \[0\] are none",
        ),
        (MIXTURE | {"decoder_sparse_step": 2}, r"of all layers or of none, but layers \[0\] are"),
        (MIXTURE | {"decoder_sparse_step": 0}, r"decoder_sparse_step must be a positive .* got 0"),
        (
            GPT_OSS | {"swiglu_limit": 9.0},
            r"swiglu_limit of a gpt_oss model must be 7\.0, got 9\.0",
        ),
        (
            GPT_OSS | {"hidden_act": "gelu_pytorch_tanh"},
            r"hidden_act of a gpt_oss model must be 'silu'",
        ),
        (MIXTURE | {"mlp_only_layers": 1}, r"mlp_only_layers must be a list of layers, got 1"),
        *(
            (
                {"model_type": encoder},
                rf"'{encoder}' is not supported: .* there is nothing to share",
            )
            for encoder in ("bert", "xlm-roberta", "modernbert")
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
            GPT_OSS,  # YaRN is its default
            {
                "experts": Experts(4, 4, 96, normalised=True, biased=True),
                "activation": "clamped_silu",
                "attention_sinks": True,
                "windowed_layers": (True, False),
                "rope_theta": 150_000.0,
                "rope_attention_factor": 0.1 * math.log(32) + 1,
            },
        ),
        (MIXTURE, {"experts": Experts(4, 2, 768, normalised=False), "qk_norm": True}),
        (MIXTURE | {"mlp_only_layers": [1, 0]}, {"experts": None, "intermediate_size": 96}),
        (MIXTURE | {"decoder_sparse_step": 3}, {"experts": None}),
        (MIXTURE | {"num_experts": 0}, {"experts": None}),
        (
            {"model_type": "mixtral", "num_local_experts": 3},
            {"experts": Experts(3, 2, 96, normalised=True), "sliding_window": None},
        ),
        ({"model_type": "mixtral", "num_experts": 3, "sliding_window": 9}, {"sliding_window": 9}),
        (MIXTURE | {"use_sliding_window": True, "sliding_window": 9}, {"windowed_layers": None}),
        (
            {"model_type": "mistral", "sliding_window": None, "max_position_embeddings": 4097},
            {"max_positions": 4097},
        ),
        ({"model_type": "qwen2", "max_position_embeddings": 4097}, {"max_positions": 4097}),
        (
            {"use_sliding_window": True, "max_position_embeddings": 4097},
            {"max_positions": 4097, "sliding_window": None},
        ),
        (
            {"model_type": "mistral", "max_position_embeddings": 4097},
            {"sliding_window": 4096, "windowed_layers": None},
        ),
        (
            {
                "model_type": "qwen3",
                "use_sliding_window": True,
                "sliding_window": 128,
                "max_window_layers": 1,
            },
            {"sliding_window": 128, "windowed_layers": (False, True)},
        ),
        (
            {
                "model_type": "qwen2",
                "use_sliding_window": True,
                "sliding_window": 128,
                "max_window_layers": 2,
            },
            {"sliding_window": None, "windowed_layers": None},
        ),
        (
            {"model_type": "gemma"},
            {
                "head_dim": 256,
                "tied_head": True,
                "activation": "gelu_tanh",
                "embedding_scale": 8.0,
                "query_scale": None,
            },
        ),
        ({"model_type": "gemma", "hidden_act": "gelu"}, {"activation": "gelu_tanh"}),
        (
            {"model_type": "gemma2", "max_position_embeddings": 8192},
            {
                "logit_softcap": 30.0,
                "score_softcap": 50.0,
                "sliding_window": 4096,
                "windowed_layers": (True, False),
            },
        ),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 144}, {"query_scale": 1 / 12}),
        ({"model_type": "gemma2", "final_logit_softcapping": None}, {"logit_softcap": None}),
        (
            {"model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 99},
            {
                "rope_theta": 1e6,
                "local_rope_theta": 1e4,
                "layer_ropes": (*["local"] * 5, "global", "local"),
                "windowed_layers": (*[True] * 5, False, True),
                "logit_softcap": None,
            },
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_theta": 5e5,
                "rope_local_base_freq": 2e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
            {
                "rope_theta": 5e5,
                "local_rope_theta": 2e4,
                "rope_frequency_divisors": (8.0,) * 128,
            },
        ),
        (
            {"model_type": "smollm3", "num_hidden_layers": 4},
            {
                "rope_theta": 2e6,
                "tied_head": True,
                "layer_ropes": ("global", "global", "global", "none"),
            },
        ),
        (
            {"model_type": "granite", "logits_scaling": 8.0, "embedding_multiplier": 12},
            {"logit_scale": 0.125, "embedding_scale": 12.0, "query_scale": 1.0},
        ),
        # Older files' name, and the other tensor's numbers are never used.
        (
            {
                "model_type": "phi3",
                "original_max_position_embeddings": 128,
                "rope_scaling": {
                    "type": "su",
                    "short_factor": [1.5] * 8,
                    "long_factor": [3.0] * 8,
                },
            },
            {
                "max_positions": 128,
                "rope_frequency_divisors": (1.5,) * 8,
                "rope_attention_factor": (1 + math.log(4) / math.log(128)) ** 0.5,
            },
        ),
        (
            {
                "model_type": "phi3",
                "original_max_position_embeddings": 128,
                "partial_rotary_factor": 0.5,
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.5] * 4,
                    "long_factor": [1.5] * 4,
                },
            },
            {"max_positions": 512, "rotated": 8},
        ),
        ({"tie_word_embeddings": True}, {"tied_head": True}),
    ],
)
def test_config_json_of_either_transformers_version_is_read(change, expected):
    config = config_from_huggingface(CONFIG | change)
    assert {name: getattr(config, name) for name in expected} == expected


def test_config_is_hashable_and_checks_itself():
    """It is a static argument under jit: equal configurations must share one compilation."""
    config = config_from_huggingface(CONFIG)
    assert hash(config) == hash(config_from_huggingface(dict(CONFIG)))
    with pytest.raises(ValueError, match=r"must hold rotary_dim / 2 = 8 numbers, got 1"):
        dataclasses.replace(config, rope_frequency_divisors=(1.0,))
    with pytest.raises(ValueError, match=r"rope_frequency_divisors must be positive"):
        dataclasses.replace(config, rope_frequency_divisors=(0.0,) * 8)
    for change, message in (
        ({"architecture": "bert"}, r"architecture 'bert' is not supported"),
        ({"activation": "relu"}, r"activation must be one of .*, got 'relu'"),
        ({"rotated": 18}, r"rotated must be even and from 2 to head_dim = 16, got 18"),
        ({"layer_ropes": ("global",)}, r"layer_ropes must hold .* num_layers = 2"),
        ({"layer_ropes": ("local",) * 2}, r"'local' needs a local_rope_theta"),
        ({"logit_softcap": 0.0}, r"logit_softcap must be a positive finite float or None"),
        ({"post_norms": True, "residual_scale": 0.5}, r"residual_scale must be 1 with post_norms"),
        ({"qk_norm": True, "projection_norm": True}, r"must not both be on"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(config, **change)


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
    return config_from_gguf(metadata, (), {"rope_freqs.weight": divisors} if divisors else {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general__architecture": "gemma4"}, r"'gemma4' is not supported; .* gemma3, phi3"),
        (
            {"general__architecture": "rwkv7"},
            r"'rwkv7' is not supported; .* qwen3moe, gpt-oss, gemma",
        ),
        ({"general__architecture": "gpt-oss"}, r"gpt-oss\.expert_count must be at least 1"),
        ({"llama__rope__freq_base_swa": 500.0}, r"freq_base_swa must be .* here, got 500\.0"),
        ({"general__architecture": "bert"}, r"'bert' is not supported: .* nothing to share"),
        ({"llama__context_length": None}, r"has no llama\.context_length"),
        ({"llama__attention__head_count": 0}, r"head_count must be from 1 to 65536, got 0"),
        ({"llama__expert_count": 8}, r"has no llama\.expert_used_count"),
        ({"general__architecture": "qwen2", "qwen2__expert_count": 8}, r"must be 0, got 8: a mix"),
        ({"general__architecture": "qwen3moe"}, r"qwen3moe\.expert_count must be at least 1"),
        *(
            (
                {"llama__expert_count": 8, "llama__expert_used_count": 2, f"llama__{key}": value},
                rf"llama\.{key} must be .*, got {value}: such a mixture",
            )
            for key, value in {
                "expert_shared_count": 1,
                "expert_weights_scale": 2.5,
                "expert_weights_norm": False,
                "expert_gating_func": 2,
                "leading_dense_block_count": 1,
            }.items()
        ),
        ({"llama__rope__scaling__type": "longrope"}, r"rope scaling 'longrope' is not supported"),
        ({"llama__rope__scaling__type": "yarn"}, r"has no llama\.rope\.scaling\.factor"),
        (
            {
                "llama__rope__scaling__type": "yarn",
                "llama__rope__scaling__factor": 4.0,
                "llama__rope__scaling__original_context_length": 128,
                "llama__rope__scaling__yarn_attn_factor": 2.0,
            },
            r"yarn_attn_factor must be 1\.0, got 2\.0",
        ),
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


def test_gguf_windows_are_read():
    def read(name: str, **keys: object) -> ModelConfig:
        metadata = gguf_metadata(general__architecture=name)
        metadata |= {f"{name}.{key[6:]}": value for key, value in gguf_metadata().items()}
        return read_gguf_config(metadata | {f"{name}.{key}": keys[key] for key in keys})

    window = {"attention.sliding_window": 128}
    assert read("llama", **window).layer_windows == (128, 128)
    assert read("llama", **{"attention.sliding_window": 0}).layer_windows == (None, None)
    assert read("phi3", **window).layer_windows == (128, 128)
    assert read("gemma2", **window).layer_windows == (128, None)
    six = read("gemma3", block_count=6, **window)
    assert six.layer_windows == (*[128] * 5, None)
    assert six.layer_ropes == (*["local"] * 5, "global")
    pattern = {"attention.sliding_window_pattern": [False, True]}
    assert read("gemma3", **window, **pattern).layer_windows == (None, 128)
    with pytest.raises(ValueError, match=r"sliding_window must be 0 here, got 128"):
        read("olmo2", **window)


def test_gguf_knows_the_models_with_wide_queries_by_their_layers():
    """No key says it: Gemma 2 27B has 46 layers, Gemma 3 27B has 62."""
    for name, layers in (("gemma2", 46), ("gemma3", 62)):
        metadata = {f"{name}.{key[6:]}": value for key, value in gguf_metadata().items()}
        metadata["general.architecture"] = name
        assert read_gguf_config(metadata).query_scale is None
        metadata[f"{name}.block_count"] = layers
        assert read_gguf_config(metadata).query_scale == 0.25  # sqrt(4 heads / 64)
