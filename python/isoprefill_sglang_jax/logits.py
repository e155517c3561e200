"""Log-probabilities at the read-out rows: the LM head runs there and nowhere else.

sglang-jax can give log-probabilities of prompt tokens, but computes the logits of all rows for it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int32
from sgl_jax.srt.layers.logits_processor import (
    LogitsMetadata,
    LogitsProcessor,
    LogitsProcessorOutput,
)
from sgl_jax.srt.utils.jax_utils import device_array

from isoprefill_sglang_jax.batch import MultiItemBatch, Readouts


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(eq=False)
class ReadoutLogitsMetadata:
    """Stands where sglang-jax's LogitsMetadata stands, with the read-out rows beside it.

    Attributes:
        own: sglang-jax's.
        rows, labels: as in MultiItemBatch.
        readouts: for the host only; it does not travel into jitted functions.
    """

    own: LogitsMetadata
    rows: Int32[Array, "R"]
    labels: Int32[Array, "R L"]
    readouts: Readouts | None = None

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return (self.own, self.rows, self.labels), None

    @classmethod
    def tree_unflatten(cls, aux_data: None, children: tuple[Any, ...]) -> "ReadoutLogitsMetadata":
        return cls(*children)

    @classmethod
    def make(
        cls, own: LogitsMetadata, items: MultiItemBatch, mesh: jax.sharding.Mesh
    ) -> "ReadoutLogitsMetadata":
        """Puts the read-out rows of a pass on the devices."""
        rows, labels = device_array(
            (items.readout_rows, items.readout_labels), sharding=NamedSharding(mesh, P("data"))
        )
        return cls(own, rows, labels, items.readouts)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(eq=False)
class ReadoutLogitsOutput:
    """Stands where sglang-jax's LogitsProcessorOutput stands, with the log-probabilities beside it."""

    own: LogitsProcessorOutput
    logprobs: Float[Array, "R L"]

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return (self.own, self.logprobs), None

    @classmethod
    def tree_unflatten(cls, aux_data: None, children: tuple[Any, ...]) -> "ReadoutLogitsOutput":
        return cls(*children)


def readout_logprobs(
    processor: LogitsProcessor,
    hidden_states: jax.Array,
    lm_head: Any,
    metadata: ReadoutLogitsMetadata,
) -> Float[Array, "R L"]:
    """log P(label | query, item) over the whole vocabulary, float32, at each read-out row and label; replicated."""
    replicated = NamedSharding(processor.mesh, P())
    labels = jax.sharding.reshard(metadata.labels, replicated)
    states = processor._select_hidden_states(hidden_states, metadata.rows)
    logits = processor._get_logits(states, lm_head).astype(jnp.float32)
    of_labels = logits.at[np.arange(labels.shape[0])[:, None], labels].get(out_sharding=replicated)
    normalisers = jax.sharding.reshard(jax.nn.logsumexp(logits, axis=-1), replicated)
    return of_labels - normalisers[:, None]


def with_readouts(call: Callable[..., Any]) -> Callable[..., Any]:
    """LogitsProcessor.__call__ that also takes ReadoutLogitsMetadata and then returns ReadoutLogitsOutput."""

    def process(
        self: LogitsProcessor,
        hidden_states: jax.Array,
        lm_head: Any,
        logits_metadata: LogitsMetadata | ReadoutLogitsMetadata,
        aux_hidden_states: jax.Array | None = None,
    ) -> LogitsProcessorOutput | ReadoutLogitsOutput:
        if not isinstance(logits_metadata, ReadoutLogitsMetadata):
            return call(self, hidden_states, lm_head, logits_metadata, aux_hidden_states)
        own = call(self, hidden_states, lm_head, logits_metadata.own, aux_hidden_states)
        logprobs = readout_logprobs(self, hidden_states, lm_head, logits_metadata)
        return ReadoutLogitsOutput(own, logprobs)

    return process
