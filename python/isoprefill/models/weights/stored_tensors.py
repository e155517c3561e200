"""Where a model's files hold each of its parameters."""

import dataclasses
from typing import Literal

from isoprefill.models.config.architectures import find_architecture
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.parameters import Parameter, parameters_of

FileFormat = Literal["gguf", "huggingface"]

# Tensors of architectures with fused projections: parameters one after another, as rows.
_FUSED = (
    (
        ("query", "key", "value"),
        {
            "gguf": "blk.{layer}.attn_qkv.weight",
            "huggingface": "model.layers.{layer}.self_attn.qkv_proj.weight",
        },
    ),
    (
        ("gate", "up"),
        {
            "gguf": "blk.{layer}.ffn_up.weight",
            "huggingface": "model.layers.{layer}.mlp.gate_up_proj.weight",
        },
    ),
)


@dataclasses.dataclass(frozen=True, slots=True)
class StoredTensor:
    """The tensors, one or one a layer, that hold a parameter, or some rows of which do.

    Attributes:
        name: with "{layer}" in the layer's place, and "{expert}" in the expert's if each has a tensor.
        shape: of each.
        rows: which of its rows.
        offset: what to add to its values.
    """

    name: str
    shape: tuple[int, ...]
    rows: slice
    offset: float = 0.0


def stored_tensors(config: ModelConfig, file_format: FileFormat) -> dict[str, StoredTensor]:
    """Returns where the files of a model hold each of its parameters, by field."""
    architecture = find_architecture(config.architecture)
    stored = {}
    for field, parameter in parameters_of(config).items():
        shape = parameter.shape(config)
        # GGUF has the sum.
        offset = architecture.norm_offset if file_format == "huggingface" else 0.0
        name = tensor_name(parameter, config, file_format)
        stored[field] = StoredTensor(
            name,
            shape[parameter.stacked + ("{expert}" in name) :],
            slice(None),
            offset if parameter.is_norm else 0.0,
        )
    for fields, names in _FUSED if architecture.fused_projections else ():
        ends = [0]
        for field in fields:
            ends.append(ends[-1] + stored[field].shape[0])
        for field, begin, end in zip(fields, ends, ends[1:], strict=False):
            shape = (ends[-1], *stored[field].shape[1:])
            stored[field] = StoredTensor(names[file_format], shape, slice(begin, end))
    return stored


def fused_names() -> dict[str, str]:
    """Returns GGUF's name of each tensor of fused projections, by transformers' name."""
    return {names["huggingface"]: names["gguf"] for _, names in _FUSED}


def tensor_name(parameter: Parameter, config: ModelConfig, file_format: FileFormat) -> str:
    """Returns the name of a parameter that has tensors of its own."""
    names = find_architecture(config.architecture).tensor_names
    if file_format == "gguf":
        together = parameter.gguf_together if names == "together" else None
        return together or parameter.gguf
    if names == "block_sparse" and parameter.block_sparse:
        return parameter.block_sparse
    if names == "together" and parameter.together:
        return parameter.together
    if config.post_norms and parameter.before_post_norm:
        return parameter.before_post_norm
    return parameter.huggingface
