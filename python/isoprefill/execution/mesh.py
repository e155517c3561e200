"""Several devices: how the work and the weights are distributed over them.

Packs are distributed along the axis "data". Along "tensor" each device has some of the heads and of the feed-forward
width, that of each expert too, as in Megatron-LM (Shoeybi et al., 2019): two sums over the devices a layer. The
embedding is whole on every device, and so is a router; the head's rows are sharded.
"""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.parameters import PARAMETERS
from isoprefill.models.weights.packed_weights import PackedWeights, pack, unpack
from isoprefill.models.weights.params import Params

DATA, TENSOR = "data", "tensor"

KEYS_AND_VALUES = PartitionSpec(None, None, TENSOR, None)  # [L, P, Hkv, D]


@dataclasses.dataclass(frozen=True, slots=True)
class MeshShape:
    """How many devices each axis has."""

    data: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for name in (DATA, TENSOR):
            if getattr(self, name) < 1:
                raise ValueError(f"mesh {name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def parse(cls, text: str) -> "MeshShape":
        """Reads "data=2,tensor=4"; an axis that is not named has 1.

        Raises:
            ValueError: saying what is wrong.
        """
        sizes = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(data|tensor)\s*=\s*(\d+)\s*", part)
            if match is None or match[1] in sizes:
                raise ValueError(f"mesh must be like 'data=2,tensor=4', got {text!r}")
            sizes[match[1]] = int(match[2])
        return cls(**sizes)


def make_mesh(shape: MeshShape, config: ModelConfig) -> Mesh:
    """Returns the first data * tensor devices as a mesh.

    Raises:
        ValueError: if there are fewer devices, or the model cannot be shared out among so many; with the numbers.
    """
    width = "intermediate_size" if config.experts is None else "expert_width"
    for name, value in (
        ("num_query_heads", config.num_query_heads),
        ("num_kv_heads", config.num_kv_heads),
        (width, config.feed_forward_width),
    ):
        if value % shape.tensor:
            raise ValueError(
                f"mesh tensor={shape.tensor} must divide the model's {name} = {value}; its "
                f"{config.num_query_heads} query heads, {config.num_kv_heads} KV heads and {width.replace('_', ' ')} "
                f"{config.feed_forward_width} allow "
                + ", ".join(map(str, _possible_tensor_sizes(config)))
            )
    needed, devices = shape.data * shape.tensor, jax.devices()
    if needed > len(devices):
        raise ValueError(
            f"mesh data={shape.data},tensor={shape.tensor} needs {needed} devices, but there are {len(devices)}"
        )
    return Mesh(np.asarray(devices[:needed]).reshape(shape.data, shape.tensor), (DATA, TENSOR))


def _possible_tensor_sizes(config: ModelConfig) -> list[int]:
    sizes = range(1, config.num_kv_heads + 1)  # query heads are a multiple of KV heads
    return [n for n in sizes if config.num_kv_heads % n == 0 and config.feed_forward_width % n == 0]


def param_specs(params: Params) -> Params:
    """Returns the partition of every weight, in the same tree."""

    def spec(path: tuple[Any, ...], _: jax.Array) -> PartitionSpec:
        field = next(key.name for key in reversed(path) if key.name in PARAMETERS)
        # Packing keeps the axes in their places, and adds one behind them.
        axis = PARAMETERS[field].sharded_axis
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, TENSOR)

    return jax.tree_util.tree_map_with_path(spec, params)


def shard_params(params: Params, mesh: Mesh) -> Params:
    """Puts the weights on the mesh's devices."""
    params = packed_for_shards(params, mesh.shape[TENSOR])
    bias = params.layers.expert_down_bias
    if bias is not None:  # of a sum over the devices, to whose part each adds its share
        share = bias / mesh.shape[TENSOR]
        params = params._replace(layers=params.layers._replace(expert_down_bias=share))
    return jax.tree.map(
        lambda weight, spec: jax.device_put(weight, NamedSharding(mesh, spec)),
        params,
        param_specs(params),
    )


def packed_for_shards(params: Params, shards: int) -> Params:
    """Returns the weights with each device's part of a packed matrix packed on its own, and of its own sizes."""

    def repacked(path: tuple[Any, ...], weights: Any) -> Any:
        axis = PARAMETERS[path[-1].name].sharded_axis
        if shards == 1 or axis is None or not isinstance(weights, PackedWeights):
            return weights
        parts = [pack(part) for part in np.split(unpack(weights), shards, axis)]
        data = np.concatenate([np.asarray(part.data) for part in parts], axis)
        return dataclasses.replace(parts[0], data=data)

    return jax.tree_util.tree_map_with_path(
        repacked, params, is_leaf=lambda leaf: isinstance(leaf, PackedWeights)
    )
