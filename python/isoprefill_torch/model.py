"""Loads a causal language model with transformers, and runs it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isoprefill.models.sources.source import find_model

Dtype = Literal["float32", "bfloat16"]

# attend(layer index, q [B, Hq, L, D], k and v [B, Hkv, L, D], scale) -> [B, Hq, L, D]
Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]

_CUSTOM = "isoprefill"  # the attention implementation that calls `attend`


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CausalLM:
    """A transformers model for inference. Not thread-safe: one call at a time."""

    name: str
    torch_model: Any  # a *ForCausalLM

    def __post_init__(self) -> None:
        config = self.torch_model.config
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            raise ValueError(f"model {self.name}: sliding-window attention is not supported")
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if (cap := getattr(config, name, None)) is not None:
                raise ValueError(f"model {self.name}: {name} = {cap} is not supported")
        if (scaling := getattr(config, "logits_scaling", 1.0)) != 1.0:
            raise ValueError(f"model {self.name}: logits_scaling = {scaling} is not supported")
        self.torch_model.eval()

    @property
    def vocab_size(self) -> int:
        return int(self.torch_model.config.vocab_size)

    @property
    def max_positions(self) -> int:
        return int(self.torch_model.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        return self.torch_model.get_input_embeddings().weight.device

    def hidden_states(
        self,
        token_ids: Int[Tensor, "B L"],
        *,
        positions: Int[Tensor, "L"] | None = None,
        mask: Bool[Tensor, "L L"] | None = None,
        cache: transformers.DynamicCache | None = None,
        attend: Attend | None = None,
    ) -> Float[Tensor, "B L hidden"]:
        """Returns the last layer's output after its norm.

        Args:
            token_ids: of B sequences.
            positions: of the tokens of each sequence; 0, 1, 2, … if None.
            mask: for transformers' SDPA attention, which is causal if None.
            cache: receives the keys and values.
            attend: takes the place of that attention.
        """
        self.torch_model.config._attn_implementation = _CUSTOM if attend else "sdpa"
        result = self.torch_model.base_model(
            input_ids=token_ids.to(self.device),
            position_ids=None if positions is None else positions[None].to(self.device),
            attention_mask=None if mask is None else mask[None, None].to(self.device),
            past_key_values=cache,
            use_cache=cache is not None,
            **({"isoprefill_attend": attend} if attend else {}),
        )
        return result.last_hidden_state


def load_model(source: str | Path, dtype: Dtype = "float32", device: str = "cpu") -> CausalLM:
    """Loads a model with transformers.

    Args:
        source: a pinned name ("smollm2-135m"), a .gguf file, or a Hugging Face directory with safetensors.
        dtype: of the weights and activations.

    Raises:
        ValueError: there is no such model, or it uses sliding-window attention, or scales or caps logits.
    """
    found = find_model(source)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(found.path)}
    if found.kind == "gguf":
        where = {
            "pretrained_model_name_or_path": str(found.path.parent),
            "gguf_file": found.path.name,
            "quantization_config": transformers.GgufConfig(dequantize=True),
        }
    else:
        where["use_safetensors"] = True
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **where, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False
    )
    return CausalLM(found.name, model.to(device))


def _custom_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    attend: Attend = kwargs["isoprefill_attend"]
    out = attend(module.layer_idx, query, key, value, scaling)
    return out.transpose(1, 2), None


transformers.AttentionInterface.register(_CUSTOM, _custom_attention)
