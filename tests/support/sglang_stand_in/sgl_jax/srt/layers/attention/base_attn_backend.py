import dataclasses

import jax
from flax import nnx


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass
class AttentionBackendMetadata:
    def tree_flatten(self):
        return (), None

    @classmethod
    def tree_unflatten(cls, aux_data, children):
        return cls()


class AttentionBackend(nnx.Module):
    def get_forward_metadata(self, batch):
        raise NotImplementedError

    def __call__(self, q, k, v, layer, forward_batch, **kwargs):
        raise NotImplementedError

    @staticmethod
    def get_max_running_reqests(max_context_len: int, page_size: int) -> int:
        raise NotImplementedError
