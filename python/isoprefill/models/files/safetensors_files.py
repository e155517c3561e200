"""Loads a model from a Hugging Face directory: config.json, and safetensors whole or in shards."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from isoprefill.models.config.architectures import find_architecture
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.config_huggingface import config_from_huggingface
from isoprefill.models.config.parameters import PARAMETERS
from isoprefill.models.files.checkpoint import bfloat16_tensors, scaled_tensors
from isoprefill.models.files.experts_together import separated
from isoprefill.models.files.finite import check_finite
from isoprefill.models.files.json_file import read_json_object
from isoprefill.models.files.lora import LoraAdapter
from isoprefill.models.files.quantised_checkpoint import widened
from isoprefill.models.files.safetensors_checkpoint import open_safetensors, weight_files
from isoprefill.models.weights.assembly import ParamsDtype, WeightBytes, assemble
from isoprefill.models.weights.params import Params

# Frequencies that follow from config.json, in old checkpoints; a head that is the embedding.
_UNUSED = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|lm_head\.weight"


def load_safetensors(
    directory: Path,
    dtype: ParamsDtype,
    adapter: LoraAdapter | None = None,
    check_memory: Callable[[WeightBytes], None] | None = None,
) -> tuple[ModelConfig, Params]:
    """Reads the configuration and the weights. Runs no code from the directory.

    Args:
        directory: holds config.json and model.safetensors, or model.safetensors.index.json and its shards.
        dtype: dtype of the parameters.
        adapter: what to add to the weights.
        check_memory: is told what the weights will take before there is memory for them.

    Raises:
        ValueError: the model or its quantisation is not supported, the adapter is not for this model, or a file, a
            shard or a tensor is missing or wrong; names it.
    """
    settings = read_json_object(directory / "config.json")
    quantization = settings.pop("quantization_config", None)
    config = config_from_huggingface(settings)
    with contextlib.ExitStack() as files:
        stored = open_safetensors(list(weight_files(directory)), files)
        checkpoint = widened(stored, quantization)
        if find_architecture(config.architecture).tensor_names == "together":
            checkpoint = separated(checkpoint)
        if adapter is not None:
            checkpoint = adapter.merged_into(checkpoint)
        shapes = {name: tensor.shape for name, tensor in checkpoint.items()}

        def read(name: str) -> np.ndarray:
            values = checkpoint[name].read()
            if not jnp.issubdtype(values.dtype, jnp.floating):  # NumPy alone does not know bfloat16
                raise ValueError(f"tensor {name} must be floating point, got {values.dtype}")
            return check_finite(name, values, dtype)

        if config.classes is not None:
            has_bias = PARAMETERS["class_bias"].huggingface in shapes
            config = dataclasses.replace(config, class_bias=has_bias)
        head, embedding = (PARAMETERS[field].huggingface for field in ("head", "embedding"))
        if config.classes is None and config.tied_head and {head, embedding} <= shapes.keys():
            # transformers 5 does not tie a head that is stored and is not the embedding.
            tied = np.array_equal(read(head), read(embedding))
            config = dataclasses.replace(config, tied_head=tied)
        params = assemble(
            config,
            "huggingface",
            _UNUSED,
            shapes,
            read,
            dtype,
            scaled=scaled_tensors(checkpoint, read),
            in_bfloat16=bfloat16_tensors(checkpoint),
            check_memory=check_memory,
        )
        return config, params
