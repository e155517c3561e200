import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sgl_jax.srt.utils.jax_utils import device_array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class LogitsProcessorOutput:
    next_token_logits: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class LogitsMetadata:
    logits_indices: jax.Array

    @classmethod
    def from_model_worker_batch(cls, batch, mesh=None):
        return cls(device_array(batch.logits_indices, NamedSharding(mesh, P("data"))))


class LogitsProcessor(nnx.Module):
    def __init__(self, vocab_size, mesh, soft_cap=None):
        self.vocab_size = vocab_size
        self.mesh = mesh

    def _select_hidden_states(self, hidden_states, indices):
        return jax.shard_map(
            lambda states, rows: states[rows],
            mesh=self.mesh,
            in_specs=(P("data", None), P("data")),
            out_specs=P("data", None),
        )(hidden_states, indices)

    def __call__(self, hidden_states, lm_head, logits_metadata, aux_hidden_states=None):
        states = self._select_hidden_states(hidden_states, logits_metadata.logits_indices)
        return LogitsProcessorOutput(self._get_logits(states, lm_head))

    def _get_logits(self, hidden_states, lm_head):
        sharding = NamedSharding(self.mesh, P("data", "tensor"))
        return jnp.dot(hidden_states, lm_head.T, out_sharding=sharding)
