"""What a decoder looks like: sizes and switches, with no weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from isoprefill.models.config.architectures import find_architecture
from isoprefill.models.config.classes import Classes
from isoprefill.models.config.experts import Experts

# Of the feed-forward part's gate: x * sigmoid(x), or Gaussian error linear units as tanh approximates them; or
# x * sigmoid(1.702 * x) of x up to 7, times 1 + the other half from -7 to 7 (gpt-oss).
Activation = Literal["silu", "gelu_tanh", "clamped_silu"]
# How a layer rotates: as the rope_ fields say, by local_rope_theta without scaling, or not at all.
LayerRope = Literal["global", "local", "none"]


@dataclasses.dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and switches of a decoder; hashable, so it can be a static argument of a jitted function.

    Attributes:
        architecture: one of `architectures.ARCHITECTURES`.
        vocab_size: rows of the embedding and of the head.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward part.
        num_layers: decoder layers.
        num_query_heads: query heads; a multiple of `num_kv_heads`.
        num_kv_heads: key and value heads.
        head_dim: width of a head; even. It need not be hidden_size / num_query_heads.
        rms_norm_eps: added to the mean square before the root.
        rope_theta: base of the rotary frequencies.
        max_positions: positions 0 to max_positions - 1 are valid.
        rope_frequency_divisors: rotary_dim / 2 divisors of the rotary frequencies, or None for plain RoPE.
        tied_head: the head is the embedding matrix.
        qkv_bias: the query, key and value projections have a bias.
        output_bias: the attention's output projection has a bias.
        qk_norm: each query and key head is RMS-normalised before RoPE.
        sliding_window: a row of a windowed layer sees at most so many positions, its own included, as in transformers.
        windowed_layers: whether each layer is windowed; None: all are if there is a window.
        query_scale: factor of the attention scores; None: 1 / sqrt(head_dim).
        score_softcap: a score s becomes score_softcap * tanh(s / score_softcap); None: it stays.
        attention_sinks: a logit for each query head joins the denominator of the softmax.
        rotated: RoPE turns the first so many elements of a head; None: all. `rotary_dim` has the number.
        rope_attention_factor: sine and cosine are multiplied by it.
        local_rope_theta: base of the rotary frequencies of "local" layers.
        layer_ropes: how each layer rotates; None: all are "global".
        projection_norm: all query heads are RMS-normalised as one before RoPE, and so are all key heads.
        pre_norms: what the attention and the feed-forward part get is RMS-normalised.
        post_norms: what they add to the stream is.
        activation: of the feed-forward part.
        experts: the feed-forward part is a mixture of these, and `intermediate_size` has no meaning; None: it is one.
        embedding_scale: embeddings are multiplied by it.
        residual_scale: what the attention and the feed-forward part add to the stream is multiplied by it.
        logit_scale: logits are multiplied by it.
        logit_softcap: then a logit x becomes logit_softcap * tanh(x / logit_softcap); None: it stays.
        classes: of the classification head that the model has instead of a language-model head; None: it has none.
        class_bias: the classification head has a bias.

    Raises:
        ValueError: a field is outside its limits; the message names it, its value and the limit.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    rope_frequency_divisors: tuple[float, ...] | None = None
    tied_head: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    windowed_layers: tuple[bool, ...] | None = None
    query_scale: float | None = None
    score_softcap: float | None = None
    attention_sinks: bool = False
    rotated: int | None = None
    rope_attention_factor: float = 1.0
    local_rope_theta: float | None = None
    layer_ropes: tuple[LayerRope, ...] | None = None
    projection_norm: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    activation: Activation = "silu"
    experts: Experts | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    classes: Classes | None = None
    class_bias: bool = False

    def __post_init__(self) -> None:
        find_architecture(self.architecture)
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type is int and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
            if field.type is float and not (type(value) is float and 0.0 < value < float("inf")):
                raise ValueError(f"{name} must be a positive finite float, got {value!r}")
        if self.num_query_heads % self.num_kv_heads:
            raise ValueError(
                f"num_query_heads must be a multiple of num_kv_heads = {self.num_kv_heads}, "
                f"got {self.num_query_heads}"
            )
        for name in ("query_scale", "score_softcap", "local_rope_theta", "logit_softcap"):
            value = getattr(self, name)
            if value is not None and not (type(value) is float and 0.0 < value < float("inf")):
                raise ValueError(f"{name} must be a positive finite float or None, got {value!r}")
        self._check_rope()
        self._check_windows()
        if self.activation not in get_args(Activation):
            raise ValueError(
                f"activation must be one of {get_args(Activation)}, got {self.activation!r}"
            )
        if self.activation == "clamped_silu" and self.experts is None:
            raise ValueError("activation 'clamped_silu' needs a mixture of experts, got None")
        if self.qk_norm and self.projection_norm:
            raise ValueError("qk_norm and projection_norm must not both be on")
        if self.post_norms and self.residual_scale != 1.0:
            raise ValueError(f"residual_scale must be 1 with post_norms, got {self.residual_scale}")

    def _check_rope(self) -> None:
        if self.rotated is None and self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, got {self.head_dim}")
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ValueError(
                f"rotated must be even and from 2 to head_dim = {self.head_dim}, got {self.rotary_dim}"
            )
        divisors = self.rope_frequency_divisors
        if divisors is not None:
            if len(divisors) != self.rotary_dim // 2:
                raise ValueError(
                    "rope_frequency_divisors must hold rotary_dim / 2 = "
                    f"{self.rotary_dim // 2} numbers, got {len(divisors)}"
                )
            if not all(0.0 < divisor < float("inf") for divisor in divisors):
                raise ValueError("rope_frequency_divisors must be positive and finite")
        layers = self.layer_ropes
        if layers is None:
            return
        if len(layers) != self.num_layers or not set(layers) <= set(get_args(LayerRope)):
            raise ValueError(
                f"layer_ropes must hold one of {get_args(LayerRope)} for each of num_layers = {self.num_layers}, "
                f"got {layers!r}"
            )
        if "local" in layers and self.local_rope_theta is None:
            raise ValueError("layer_ropes 'local' needs a local_rope_theta, got None")

    def _check_windows(self) -> None:
        window, layers = self.sliding_window, self.windowed_layers
        if window is not None and (type(window) is not int or window < 1):
            raise ValueError(f"sliding_window must be a positive integer or None, got {window!r}")
        if layers is None:
            return
        if window is None:
            raise ValueError("windowed_layers needs a sliding_window, got None")
        if len(layers) != self.num_layers or not all(type(layer) is bool for layer in layers):
            raise ValueError(
                f"windowed_layers must hold num_layers = {self.num_layers} booleans, got {layers!r}"
            )

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """The sliding window of each layer, or None."""
        if self.windowed_layers is None:
            return (self.sliding_window,) * self.num_layers
        return tuple(self.sliding_window if on else None for on in self.windowed_layers)

    @property
    def rotary_dim(self) -> int:
        """How many elements of a head RoPE turns."""
        return self.head_dim if self.rotated is None else self.rotated

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The different ones of them: None first, if some layers have none."""
        window = self.sliding_window
        return tuple(one for one in dict.fromkeys((None, window)) if one in self.layer_windows)

    @property
    def mixture(self) -> bool:
        """Whether the feed-forward part is a mixture of experts."""
        return self.experts is not None

    @property
    def biased_mixture(self) -> bool:
        """Whether the router and the experts have biases."""
        return self.experts is not None and self.experts.biased

    @property
    def single_feed_forward(self) -> bool:
        """Whether it is one, with weights of its own."""
        return self.experts is None

    @property
    def feed_forward_width(self) -> int:
        """The width of the feed-forward part, or of that of one expert."""
        return self.intermediate_size if self.experts is None else self.experts.width

    @property
    def own_head(self) -> bool:
        """Whether there is a language-model head with weights of its own."""
        return self.classes is None and not self.tied_head

    @property
    def class_head(self) -> bool:
        """Whether there is a classification head."""
        return self.classes is not None


def required(config: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """Returns the value of `name` as `kind` (int or float); ValueError if it is absent or no number."""
    value = config.get(name)
    if value is None:
        raise ValueError(f"the model's configuration has no {name}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"the model's {name} must be a number, got {value!r}")
    return kind(value)
