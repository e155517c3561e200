"""The decoder's parameters, one row each: axes, names in files, and which models have it.

Shapes, and which axis is sharded over the devices of a mesh, follow from the axes.

Letters as in `decoder`: V vocab_size, C classes, E hidden_size, F intermediate_size, L layers, Hq query heads, Hkv key
and value heads, D head_dim, X experts, Fx width of an expert.
"""

import dataclasses

from isoprefill.models.config.config import ModelConfig

# Axes that the devices along a mesh's tensor axis share out: heads, and the feed-forward width.
_SHARDED_AXES = ("Hq*D", "Hkv*D", "F", "Fx", "Hq")


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One array of weights.

    Attributes:
        axes: its axes, in letters. With L it is a stack of all layers' tensors, else one tensor.
        gguf: name of the tensor in a GGUF file, with "{layer}" in the layer's place.
        huggingface: the same for a Hugging Face checkpoint. With "{expert}" every expert has a tensor of its own.
        block_sparse: its name in a Hugging Face checkpoint with Mixtral's names, if that is another.
        together: its name where one tensor has all experts of a layer, as of gpt-oss; in GGUF files it always has.
        gguf_together: its name in a GGUF file of gpt-oss, if that is another.
        before_post_norm: its name in a Hugging Face checkpoint of a model with post_norms, if that is another.
        only_if: the switch of `ModelConfig` that models with this parameter have on; None: all models have it.
    """

    axes: str
    gguf: str
    huggingface: str
    only_if: str | None = None
    before_post_norm: str | None = None
    block_sparse: str | None = None
    together: str | None = None
    gguf_together: str | None = None

    @property
    def stacked(self) -> bool:
        """Whether every layer has a tensor of its own."""
        return self.axes.startswith("L ")

    @property
    def is_matrix(self) -> bool:
        """Whether rows are multiplied with it."""
        return len(self.axes.removeprefix("L ").split()) >= 2 and not self.gguf.endswith(".bias")

    @property
    def is_norm(self) -> bool:
        """Whether something normalised is multiplied with it."""
        return self.gguf.endswith("_norm.weight")

    @property
    def sharded_axis(self) -> int | None:
        """Index of the axis that a mesh's tensor axis divides; None: every device has the whole."""
        axes = self.axes.split()
        return next((axes.index(axis) for axis in _SHARDED_AXES if axis in axes), None)

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Returns the sizes of all axes, that of layers included."""
        sizes = {
            "V": config.vocab_size,
            "C": 0 if config.classes is None else len(config.classes.names),
            "E": config.hidden_size,
            "F": config.intermediate_size,
            "X": 0 if config.experts is None else config.experts.number,
            "Fx": config.feed_forward_width,
            "L": config.num_layers,
            "D": config.head_dim,
            "Hq": config.num_query_heads,
            "Hq*D": config.num_query_heads * config.head_dim,
            "Hkv*D": config.num_kv_heads * config.head_dim,
        }
        return tuple(sizes[axis] for axis in self.axes.split())


def _layer(
    axes: str,
    gguf: str,
    huggingface: str,
    only_if: str | None = None,
    before_post_norm: str | None = None,
    block_sparse: str | None = None,
    together: str | None = None,
    gguf_together: str | None = None,
) -> Parameter:
    layer = "model.layers.{layer}."
    return Parameter(
        f"L {axes}",
        "blk.{layer}." + gguf,
        layer + huggingface,
        only_if,
        before_post_norm and layer + before_post_norm,
        block_sparse and layer + block_sparse,
        together and layer + together,
        gguf_together and "blk.{layer}." + gguf_together,
    )


def _experts(axes: str, gguf: str, huggingface: str, block_sparse: str) -> Parameter:
    return _layer(
        f"X {axes}",
        gguf,
        "mlp.experts.{expert}." + huggingface,
        "mixture",
        block_sparse="block_sparse_moe.experts.{expert}." + block_sparse,
        together="mlp.experts." + huggingface.removesuffix(".weight"),
    )


def _expert_bias(axes: str, gguf: str, huggingface: str) -> Parameter:
    return _layer(axes, gguf, huggingface, "biased_mixture")


# By field of `LayerParams` where there are layers, else of `Params`.
PARAMETERS = {
    "embedding": Parameter("V E", "token_embd.weight", "model.embed_tokens.weight"),
    "attention_norm": _layer("E", "attn_norm.weight", "input_layernorm.weight", "pre_norms"),
    "query": _layer("Hq*D E", "attn_q.weight", "self_attn.q_proj.weight"),
    "key": _layer("Hkv*D E", "attn_k.weight", "self_attn.k_proj.weight"),
    "value": _layer("Hkv*D E", "attn_v.weight", "self_attn.v_proj.weight"),
    "output": _layer("E Hq*D", "attn_output.weight", "self_attn.o_proj.weight"),
    "post_attention_norm": _layer(
        "E", "post_attention_norm.weight", "post_attention_layernorm.weight", "post_norms"
    ),
    "feed_forward_norm": _layer(
        "E",
        "ffn_norm.weight",
        "post_attention_layernorm.weight",
        "pre_norms",
        "pre_feedforward_layernorm.weight",
        gguf_together="post_attention_norm.weight",
    ),
    "post_feed_forward_norm": _layer(
        "E", "post_ffw_norm.weight", "post_feedforward_layernorm.weight", "post_norms"
    ),
    "gate": _layer("F E", "ffn_gate.weight", "mlp.gate_proj.weight", "single_feed_forward"),
    "up": _layer("F E", "ffn_up.weight", "mlp.up_proj.weight", "single_feed_forward"),
    "down": _layer("E F", "ffn_down.weight", "mlp.down_proj.weight", "single_feed_forward"),
    "router": _layer(
        "X E",
        "ffn_gate_inp.weight",
        "mlp.gate.weight",
        "mixture",
        block_sparse="block_sparse_moe.gate.weight",
        together="mlp.router.weight",
    ),
    "expert_gate": _experts("Fx E", "ffn_gate_exps.weight", "gate_proj.weight", "w1.weight"),
    "expert_up": _experts("Fx E", "ffn_up_exps.weight", "up_proj.weight", "w3.weight"),
    "expert_down": _experts("E Fx", "ffn_down_exps.weight", "down_proj.weight", "w2.weight"),
    "router_bias": _expert_bias("X", "ffn_gate_inp.bias", "mlp.router.bias"),
    "expert_gate_bias": _expert_bias("X Fx", "ffn_gate_exps.bias", "mlp.experts.gate_proj_bias"),
    "expert_up_bias": _expert_bias("X Fx", "ffn_up_exps.bias", "mlp.experts.up_proj_bias"),
    "expert_down_bias": _expert_bias("X E", "ffn_down_exps.bias", "mlp.experts.down_proj_bias"),
    "sinks": _layer("Hq", "attn_sinks.weight", "self_attn.sinks", "attention_sinks"),
    "query_bias": _layer("Hq*D", "attn_q.bias", "self_attn.q_proj.bias", "qkv_bias"),
    "key_bias": _layer("Hkv*D", "attn_k.bias", "self_attn.k_proj.bias", "qkv_bias"),
    "value_bias": _layer("Hkv*D", "attn_v.bias", "self_attn.v_proj.bias", "qkv_bias"),
    "output_bias": _layer("E", "attn_output.bias", "self_attn.o_proj.bias", "output_bias"),
    "query_norm": _layer("D", "attn_q_norm.weight", "self_attn.q_norm.weight", "qk_norm"),
    "key_norm": _layer("D", "attn_k_norm.weight", "self_attn.k_norm.weight", "qk_norm"),
    "query_projection_norm": _layer(
        "Hq*D", "attn_q_norm.weight", "self_attn.q_norm.weight", "projection_norm"
    ),
    "key_projection_norm": _layer(
        "Hkv*D", "attn_k_norm.weight", "self_attn.k_norm.weight", "projection_norm"
    ),
    "final_norm": Parameter("E", "output_norm.weight", "model.norm.weight"),
    "head": Parameter("V E", "output.weight", "lm_head.weight", "own_head"),
    "class_head": Parameter("C E", "cls.output.weight", "score.weight", "class_head"),
    "class_bias": Parameter("C", "cls.output.bias", "score.bias", "class_bias"),
}


def parameters_of(config: ModelConfig) -> dict[str, Parameter]:
    """Returns the rows of those parameters that a model has, by field."""
    return {
        field: row
        for field, row in PARAMETERS.items()
        if row.only_if is None or getattr(config, row.only_if)
    }
