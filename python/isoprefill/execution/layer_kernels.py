"""The TPU kernels of a layer outside its attention, as `decode` calls them, for models that they can compute."""

import functools
from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from isoprefill.models.config.config import ModelConfig
from isoprefill.models.decoder.decoder import LayerKernels
from isoprefill.models.weights.packed_weights import PackedWeights
from isoprefill.models.weights.params import Params
from isoprefill.modes import Backend
from isoprefill_pallas.layer_kernels import (
    project_gated,
    project_heads,
    takes_gate,
    takes_heads,
)
from isoprefill_pallas.op import device_options, matrix_unit


def layer_kernels(
    params: Params,
    config: ModelConfig,
    attention: Backend,
    interpret: bool | pltpu.InterpretParams | None = None,
) -> LayerKernels:
    """Returns the kernels for a model; without the back end "pallas", and where they cannot compute it, none.

    Args:
        params: weights, or what one device has of them.
        interpret: as in `multi_item_attention`.
    """
    layers = params.layers
    if attention != "pallas" or isinstance(layers.query, PackedWeights):
        return LayerKernels()
    gate = layers.gate  # none in a model whose layers are all mixtures of experts
    found = (layers.query, layers.key, layers.value, gate, layers.up)
    matrices = [weights for weights in found if weights is not None]
    if any(weights.dtype != jnp.bfloat16 for weights in matrices):
        return LayerKernels()
    interpret, vmem_limit_bytes = device_options(interpret)
    options: dict[str, Any] = {"interpret": interpret, "vmem_limit_bytes": vmem_limit_bytes}
    heads = (
        takes_heads(config.hidden_size, config.head_dim)
        and config.rotary_dim == config.head_dim
        and not config.qkv_bias
        and not config.projection_norm
    )
    width = None if gate is None or isinstance(gate, PackedWeights) else gate.shape[1]
    gated = (
        width is not None and takes_gate(config.hidden_size, width) and config.activation == "silu"
    )
    return LayerKernels(
        heads=functools.partial(
            project_heads, head_dim=config.head_dim, eps=config.rms_norm_eps, **options
        )
        if heads
        else None,
        gated=functools.partial(project_gated, matrix_unit=matrix_unit(), **options)
        if gated
        else None,
    )
