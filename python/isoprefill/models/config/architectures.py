"""The supported architectures: one decoder with switches, one row each.

A model of a new architecture that the decoder already computes needs a row here, nothing else. Importing this does not
import jax.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

# What it always is, or the key of config.json that says so; false where the key is absent.
Switch = bool | str

# Which layers have the sliding window: all; those from max_window_layers on; of every sliding_window_pattern layers all
# but the last; those without RoPE.
TensorNames = Literal["usual", "block_sparse", "together"]
WindowRule = Literal["every", "upper", "all_but_last", "unrotated"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How an architecture uses the decoder, and what its files mean by what they leave out.

    Attributes:
        qkv_bias: the query, key and value projections have a bias. A GGUF file says it by its tensors.
        output_bias: so has the attention's output projection.
        qk_norm: each query and key head is RMS-normalised before RoPE.
        projection_norm: all query heads are RMS-normalised as one before RoPE, and so are all key heads.
        pre_norms: what the attention and the feed-forward part get is RMS-normalised.
        post_norms: what they add to the stream is.
        norm_offset: added to the weights of norms in a Hugging Face checkpoint; a GGUF file holds the sums.
        activation_key: the key of config.json that names the feed-forward part's activation.
        activation: what an absent key means, and what a GGUF file means.
        gelu_by_tanh: "gelu" in config.json is what other architectures call "gelu_pytorch_tanh".
        embedding_scaled: embeddings are multiplied by sqrt(hidden_size), rounded to the weights' dtype.
        fused_projections: query, key and value are one tensor, and so are gate and up.
        mixture: the feed-forward part is a mixture of experts.
        expert_width_key: the key of config.json with the width of an expert.
        shares_normalised: the shares of a row's experts are divided by their sum. Always in a GGUF file.
        experts_biased: the router and the experts' matrices have biases.
        clamped_gate: "silu" in config.json is gpt-oss's gate, of which both halves are clamped.
        tensor_names: how a Hugging Face checkpoint calls the mixture's tensors.
        attention_sinks: a logit for each query head joins the denominator of the softmax.
        soft_caps: config.json's query_pre_attn_scalar and final_logit_softcapping count.
        score_softcap: so does its attn_logit_softcapping.
        multipliers: so do its attention_multiplier, embedding_multiplier, residual_multiplier and logits_scaling.
        partial_rotary: so does its partial_rotary_factor.
        local_rope: layers with a sliding window have RoPE of their own.
        no_rope_interval: one layer in so many is without RoPE; the default of config.json, always in a GGUF file.
        window_switch: config.json's sliding_window counts.
        window_rule: for which layers, if layer_types does not say.
        defaults: what absent keys of config.json mean, if other than what `config_huggingface` takes.
        gguf_name: general.architecture of a GGUF file, if other than model_type. Two may have one, if one is a mixture.
        gguf_yarn_truncated: YaRN's line of a GGUF file begins and ends at whole pairs. GGUF has no key for it.
        gguf_windows: a GGUF file may have a sliding window.
        gguf_wide_scale_layers: a model of so many layers scales queries by sqrt(heads / hidden_size), not by
            sqrt(1 / head_dim). GGUF has no key for it, and llama.cpp knows the one such model by its layers.
        gguf_interleaves_heads: GGUF stores the rows of q and k in llama.cpp's order, pairs as neighbours.
        llama_tokenizer: transformers uses its class LlamaTokenizer if tokenizer_config.json names it.
    """

    qkv_bias: Switch = False
    output_bias: Switch = False
    qk_norm: bool = False
    projection_norm: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    norm_offset: float = 0.0
    activation_key: str = "hidden_act"
    activation: str = "silu"
    gelu_by_tanh: bool = False
    embedding_scaled: bool = False
    fused_projections: bool = False
    mixture: bool = False
    expert_width_key: str = "moe_intermediate_size"
    shares_normalised: Switch = True
    experts_biased: bool = False
    clamped_gate: bool = False
    tensor_names: TensorNames = "usual"
    attention_sinks: bool = False
    soft_caps: bool = False
    score_softcap: bool = False
    multipliers: bool = False
    partial_rotary: bool = False
    local_rope: bool = False
    no_rope_interval: int | None = None
    window_switch: Switch = False
    window_rule: WindowRule = "every"
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gguf_name: str | None = None
    gguf_yarn_truncated: bool = True
    gguf_windows: bool = True
    gguf_wide_scale_layers: int | None = None
    gguf_interleaves_heads: bool = False
    llama_tokenizer: bool = True


_GEMMA = Architecture(
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    norm_offset=1.0,
    activation="gelu_pytorch_tanh",
    embedding_scaled=True,
    defaults={"head_dim": 256, "tie_word_embeddings": True},
)
_GEMMA2 = dataclasses.replace(
    _GEMMA,
    soft_caps=True,
    post_norms=True,
    activation_key="hidden_activation",
    window_switch=True,
    window_rule="all_but_last",
)
_GEMMA2_DEFAULTS = {**_GEMMA.defaults, "query_pre_attn_scalar": 256, "sliding_window": 4096}

# By model_type in config.json.
ARCHITECTURES = {
    "llama": Architecture(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        gguf_interleaves_heads=True,
    ),
    "mistral": Architecture(
        window_switch=True,
        defaults={"sliding_window": 4096},
        llama_tokenizer=False,
    ),
    "qwen2": Architecture(
        qkv_bias=True,
        window_switch="use_sliding_window",
        window_rule="upper",
        defaults={"sliding_window": 4096, "max_window_layers": 28},
        llama_tokenizer=False,
    ),
    "qwen3": Architecture(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        window_switch="use_sliding_window",
        window_rule="upper",
        defaults={"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28},
    ),
    "qwen3_moe": Architecture(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        mixture=True,
        shares_normalised="norm_topk_prob",
        window_switch="use_sliding_window",
        defaults={"sliding_window": 4096, "moe_intermediate_size": 768, "num_experts_per_tok": 8},
        gguf_name="qwen3moe",
    ),
    "mixtral": Architecture(
        mixture=True,
        expert_width_key="intermediate_size",
        tensor_names="block_sparse",
        window_switch=True,
        defaults={"rms_norm_eps": 1e-5, "num_experts_per_tok": 2},
        gguf_name="llama",
        gguf_interleaves_heads=True,
    ),
    "gpt_oss": Architecture(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mixture=True,
        expert_width_key="intermediate_size",
        experts_biased=True,
        clamped_gate=True,
        tensor_names="together",
        attention_sinks=True,
        window_switch=True,
        window_rule="all_but_last",
        defaults={
            "attention_bias": True,
            "head_dim": 64,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150_000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "truncate": False,
            },
            "num_experts_per_tok": 4,
            "sliding_window": 128,
            "sliding_window_pattern": 2,
        },
        gguf_name="gpt-oss",
        gguf_yarn_truncated=False,  # llama.cpp truncates it, the models do not
    ),
    "gemma": dataclasses.replace(_GEMMA, gelu_by_tanh=True),
    "gemma2": dataclasses.replace(
        _GEMMA2,
        score_softcap=True,
        defaults={
            **_GEMMA2_DEFAULTS,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window_pattern": 2,
        },
        gguf_wide_scale_layers=46,
    ),
    "gemma3_text": dataclasses.replace(
        _GEMMA2,
        qk_norm=True,
        local_rope=True,
        defaults={
            **_GEMMA2_DEFAULTS,
            "max_position_embeddings": 131_072,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "sliding_window_pattern": 6,
        },
        gguf_name="gemma3",
        gguf_wide_scale_layers=62,
    ),
    "phi3": Architecture(
        fused_projections=True,
        partial_rotary=True,
        window_switch=True,
        defaults={"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
        llama_tokenizer=False,
    ),
    "olmo2": Architecture(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        projection_norm=True,
        pre_norms=False,
        post_norms=True,
        defaults={"rms_norm_eps": 1e-5},
        gguf_windows=False,  # that would be OLMo 3, which scales RoPE in some layers only
    ),
    "granite": Architecture(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        multipliers=True,
        gguf_interleaves_heads=True,
    ),
    "smollm3": Architecture(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        no_rope_interval=4,
        window_switch="use_sliding_window",
        window_rule="unrotated",
        defaults={"rope_theta": 2e6, "tie_word_embeddings": True},
        gguf_interleaves_heads=True,
    ),
}

# Encoders, by their names in either kind of file.
_BIDIRECTIONAL = frozenset(
    ("bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "jina-bert-v2")
    + ("modern-bert", "modernbert", "mpnet", "nomic-bert", "roberta", "xlm-roberta")
)


def find_architecture(name: object) -> Architecture:
    """Returns the row of a model_type; ValueError unless it is supported."""
    if isinstance(name, str) and name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise _unsupported(name, list(ARCHITECTURES))


def gguf_model_type(metadata: Mapping[str, Any]) -> str:
    """Returns the model_type of a GGUF file's metadata; ValueError unless its architecture is supported."""
    name = metadata.get("general.architecture")
    rows = ARCHITECTURES.items()
    named = {key: row for key, row in rows if (row.gguf_name or key) == name}
    if not named:
        raise _unsupported(name, list({row.gguf_name or key: None for key, row in rows}))
    mixture = bool(metadata.get(f"{name}.expert_count"))
    for key, row in named.items():
        if row.mixture == mixture:
            return key
    if mixture:
        raise ValueError(
            f"{name}.expert_count must be 0, got {metadata[f'{name}.expert_count']}: a mixture of experts of this "
            "architecture is not supported"
        )
    raise ValueError(f"{name}.expert_count must be at least 1, got 0 or nothing")


def _unsupported(name: object, supported: list[str]) -> ValueError:
    if name in _BIDIRECTIONAL:
        return ValueError(
            f"architecture {name!r} is not supported: its tokens see those after them, so a query's rows differ from "
            "item to item and there is nothing to share"
        )
    return ValueError(f"architecture {name!r} is not supported; supported: {', '.join(supported)}")
