"""A model on its devices."""

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh

from isoprefill.attention import AttentionHeads
from isoprefill.attention.layout import PackedLayout, with_schedules
from isoprefill.bits import dtype_name, to_storage
from isoprefill.execution.mesh import DATA, TENSOR, MeshShape, make_mesh, shard_params
from isoprefill.execution.steps import Steps, steps
from isoprefill.models.config import ModelConfig
from isoprefill.models.decoder import Params
from isoprefill.modes import Backend


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Device:
    """Weights where they are used, and the functions that use them.

    Attributes:
        params: weights, shared out over the mesh if there is one.
        config: sizes and switches of the model.
        attention: back end.
        mesh: devices; None is JAX's default device.
        steps: compiled functions.
        lanes: packs that are computed side by side.
    """

    params: Params
    config: ModelConfig
    attention: Backend
    mesh: Mesh | None
    steps: Steps
    lanes: int

    @classmethod
    def of(
        cls, params: Params, config: ModelConfig, attention: Backend, shape: MeshShape | None
    ) -> "Device":
        """Puts a model on a mesh, or leaves it on the default device.

        Raises:
            ValueError: if the devices or the model's heads do not allow the mesh; with the numbers.
        """
        params = to_storage(params)
        if shape is None:
            return cls(params, config, attention, None, steps(config, attention, None), 1)
        mesh = make_mesh(shape, config)
        return cls(
            shard_params(params, mesh),
            config,
            attention,
            mesh,
            steps(config, attention, mesh),
            mesh.shape[DATA],
        )

    def with_schedules(self, layouts: Sequence[PackedLayout]) -> list[PackedLayout]:
        """Layouts of one size with what the attention of one device needs, all of one kind."""
        tensor = 1 if self.mesh is None else self.mesh.shape[TENSOR]
        heads = AttentionHeads(
            self.config.num_query_heads // tensor,
            self.config.num_kv_heads // tensor,
            self.config.head_dim,
            dtype_name(self.params.final_norm),
        )
        return with_schedules(layouts, self.attention, heads)
