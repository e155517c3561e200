"""The supported architectures: one decoder with switches, one row each.

A model of a new architecture that the decoder already computes needs a row here, nothing else. Importing this does not
import jax.
"""

import dataclasses

# What it always is, or the key of config.json that says so; false where the key is absent.
Switch = bool | str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How an architecture uses the decoder, and what its files mean by what they leave out.

    Attributes:
        qkv_bias: the query, key and value projections have a bias. A GGUF file says it by its tensors.
        output_bias: so has the attention's output projection.
        qk_norm: each query and key head is RMS-normalised before RoPE.
        default_head_dim: of a config.json without head_dim; None: hidden_size / num_attention_heads.
        sliding_window: config.json's sliding_window counts.
        default_window: of a config.json without sliding_window, where it counts; None: no window.
        llama_tokenizer: transformers uses its class LlamaTokenizer if tokenizer_config.json names it.
        gguf_interleaves_heads: GGUF stores the rows of q and k in llama.cpp's order, pairs as neighbours.
    """

    qkv_bias: Switch = False
    output_bias: Switch = False
    qk_norm: bool = False
    default_head_dim: int | None = None
    sliding_window: Switch = "use_sliding_window"
    default_window: int | None = None
    llama_tokenizer: bool = True
    gguf_interleaves_heads: bool = False


# By model_type in config.json and general.architecture in a GGUF file.
ARCHITECTURES = {
    "llama": Architecture(
        qkv_bias="attention_bias", output_bias="attention_bias", gguf_interleaves_heads=True
    ),
    "mistral": Architecture(sliding_window=True, default_window=4096, llama_tokenizer=False),
    "qwen2": Architecture(qkv_bias=True, default_window=4096, llama_tokenizer=False),
    "qwen3": Architecture(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        default_head_dim=128,
        default_window=4096,
    ),
}


def find_architecture(name: object) -> Architecture:
    """Returns the row of an architecture; ValueError unless it is supported."""
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(
            f"architecture {name!r} is not supported; supported: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
