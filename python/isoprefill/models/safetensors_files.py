"""Loads a model from a Hugging Face directory: config.json, and safetensors whole or in shards."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from isoprefill.models.assembly import ParamsDtype, TensorNames, assemble
from isoprefill.models.config import ModelConfig
from isoprefill.models.config_huggingface import config_from_huggingface
from isoprefill.models.decoder import Params
from isoprefill.models.json_file import read_json_object

NAMES = TensorNames(
    embedding="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    head="lm_head.weight",
    layers={
        "attention_norm": "model.layers.{layer}.input_layernorm.weight",
        "query": "model.layers.{layer}.self_attn.q_proj.weight",
        "key": "model.layers.{layer}.self_attn.k_proj.weight",
        "value": "model.layers.{layer}.self_attn.v_proj.weight",
        "output": "model.layers.{layer}.self_attn.o_proj.weight",
        "feed_forward_norm": "model.layers.{layer}.post_attention_layernorm.weight",
        "gate": "model.layers.{layer}.mlp.gate_proj.weight",
        "up": "model.layers.{layer}.mlp.up_proj.weight",
        "down": "model.layers.{layer}.mlp.down_proj.weight",
        "query_bias": "model.layers.{layer}.self_attn.q_proj.bias",
        "key_bias": "model.layers.{layer}.self_attn.k_proj.bias",
        "value_bias": "model.layers.{layer}.self_attn.v_proj.bias",
        "output_bias": "model.layers.{layer}.self_attn.o_proj.bias",
        "query_norm": "model.layers.{layer}.self_attn.q_norm.weight",
        "key_norm": "model.layers.{layer}.self_attn.k_norm.weight",
    },
    # Frequencies that follow from config.json, in old checkpoints; a head that is the embedding.
    unused=r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|lm_head\.weight",
)
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def load_safetensors(directory: Path, dtype: ParamsDtype) -> tuple[ModelConfig, Params]:
    """Reads the configuration and the weights. Runs no code from the directory.

    Args:
        directory: holds config.json and model.safetensors, or model.safetensors.index.json and its
            shards.
        dtype: dtype of the parameters.

    Raises:
        ValueError: the model is not supported, or a file, a shard or a tensor is missing or wrong;
            names it.
    """
    config = config_from_huggingface(read_json_object(directory / "config.json"))
    with contextlib.ExitStack() as files:
        reader = _SafetensorsReader(directory, files)
        if config.tied_head and reader.has_head_of_its_own():
            config = dataclasses.replace(config, tied_head=False)
        return config, assemble(config, NAMES, reader, dtype)


class _SafetensorsReader:
    """Reads tensors from the open files of one directory."""

    def __init__(self, directory: Path, files: contextlib.ExitStack) -> None:
        self._file_of: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in _weight_files(directory):
            try:
                file = files.enter_context(safetensors.safe_open(path, framework="numpy"))
            except (safetensors.SafetensorError, OSError) as error:
                raise ValueError(f"{path} cannot be read: {error}") from error
            for name in file.keys():  # noqa: SIM118 (not a dict)
                self._file_of[name] = file
                self._shapes[name] = tuple(file.get_slice(name).get_shape())

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def has_head_of_its_own(self) -> bool:
        """Whether a head is stored that is not the embedding: transformers 5 then does not tie it."""
        if not {NAMES.head, NAMES.embedding} <= self._shapes.keys():
            return False
        return not np.array_equal(self.read(NAMES.head), self.read(NAMES.embedding))

    def read(self, name: str) -> np.ndarray:
        values: np.ndarray = self._file_of[name].get_tensor(name)
        if not jnp.issubdtype(values.dtype, jnp.floating):  # NumPy alone does not know bfloat16
            raise ValueError(f"tensor {name} must be floating point, got {values.dtype}")
        return values


def _weight_files(directory: Path) -> Iterator[Path]:
    index = directory / _INDEX
    if not index.is_file():
        if not (directory / _SINGLE).is_file():
            raise ValueError(f"{directory} has neither {_SINGLE} nor {_INDEX}")
        yield directory / _SINGLE
        return
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no weight_map")
    for shard in sorted(set(weight_map.values())):
        path = directory / shard
        # A name with a folder in it could lead outside the directory.
        if Path(shard).name != shard or not path.is_file():
            raise ValueError(f"shard {shard} is missing from {directory}, but {_INDEX} names it")
        yield path
