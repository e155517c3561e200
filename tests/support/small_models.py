"""Small random models of every family, made by transformers.

Every parameter is random, norms and biases included, so that a loader or decoder that drops or
swaps one is seen.
"""

from typing import Any

import torch
import transformers

from model_families import SETTINGS

# Beside other work, two threads wait for each other longer than a small model takes.
torch.set_num_threads(1)

VOCAB_SIZE = 300  # 256 bytes, one special token, the rest unused


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
    return transformers.AutoConfig.for_model(
        family, **settings | SETTINGS.get(family, {}) | overrides
    )


def random_model(family: str, **overrides: Any) -> torch.nn.Module:
    """Makes a random model of `small_config`, float32."""
    config = small_config(family, **overrides)
    config._attn_implementation = config._experts_implementation = "eager"
    return _randomised(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def random_classifier(family: str, bias: bool = False, **overrides: Any) -> torch.nn.Module:
    """Makes a random `…ForSequenceClassification` of `small_config`, float32.

    Args:
        family: one of FAMILIES.
        bias: give the head one, which transformers' own heads do not have.
        **overrides: arguments of the configuration, `num_labels`, `id2label` and `problem_type` among them.
    """
    config = small_config(family, **overrides)
    config._attn_implementation = config._experts_implementation = "eager"
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
            parameter.copy_(1.0 + 0.2 * noise if "norm" in name else _scale_of(name) * noise)
    return model.eval()


def _scale_of(parameter: str) -> float:
    """Biases so large that gates are clamped, sinks so large that they differ; all else is small."""
    scales = {"gate_up_proj_bias": 4.0, "sinks": 1.0}
    return next((scale for end, scale in scales.items() if parameter.endswith(end)), 0.12)
