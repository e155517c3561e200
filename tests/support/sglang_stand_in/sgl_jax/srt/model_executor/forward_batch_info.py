import dataclasses
import enum

import jax
from jax.sharding import NamedSharding, PartitionSpec
from sgl_jax.srt.utils.jax_utils import device_array


class ForwardMode(enum.IntEnum):
    EXTEND = 1
    DECODE = 2

    def is_extend(self):
        return self == ForwardMode.EXTEND


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ForwardBatch:
    input_ids: jax.Array
    positions: jax.Array
    out_cache_loc: jax.Array
    attn_backend: object

    @classmethod
    def init_new(cls, batch, model_runner):
        arrays = (batch.input_ids, batch.positions, batch.out_cache_loc)
        sharding = NamedSharding(model_runner.mesh, PartitionSpec("data"))
        return cls(*device_array(arrays, sharding), model_runner.attn_backend)
