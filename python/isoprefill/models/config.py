"""What a decoder looks like: sizes and switches, with no weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from isoprefill.models.architectures import find_architecture
from isoprefill.models.classes import Classes


@dataclasses.dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and switches of a Llama-family decoder; hashable, so it can be a static argument of a jitted function.

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
        rope_frequency_divisors: head_dim / 2 divisors of the rotary frequencies, or None for plain RoPE.
        tied_head: the head is the embedding matrix.
        qkv_bias: the query, key and value projections have a bias.
        output_bias: the attention's output projection has a bias.
        qk_norm: each query and key head is RMS-normalised before RoPE.
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
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, got {self.head_dim}")
        divisors = self.rope_frequency_divisors
        if divisors is not None:
            if len(divisors) != self.head_dim // 2:
                raise ValueError(
                    "rope_frequency_divisors must hold head_dim / 2 = "
                    f"{self.head_dim // 2} numbers, got {len(divisors)}"
                )
            if not all(0.0 < divisor < float("inf") for divisor in divisors):
                raise ValueError("rope_frequency_divisors must be positive and finite")

    @property
    def own_head(self) -> bool:
        """Whether there is a language-model head with weights of its own."""
        return self.classes is None and not self.tied_head

    @property
    def class_head(self) -> bool:
        """Whether there is a classification head."""
        return self.classes is not None


def check_sliding_window(window: int | None, max_positions: int) -> None:
    """Raises ValueError if a sliding window would hide columns: attention is over all of them."""
    if window is not None and 0 < window < max_positions:
        raise ValueError(
            f"sliding-window attention is not supported: the model's window is {window}, "
            f"less than its {max_positions} positions"
        )


def required(config: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """Returns the value of `name` as `kind` (int or float); ValueError if it is absent or no number."""
    value = config.get(name)
    if value is None:
        raise ValueError(f"the model's configuration has no {name}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"the model's {name} must be a number, got {value!r}")
    return kind(value)
