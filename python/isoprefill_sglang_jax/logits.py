"""Computes log-probabilities at the read-out rows, and at no others.

sglang-jax can return log-probabilities of prompt tokens, but computes the logits of all rows for them.
"""

import dataclasses
import functools
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


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("own", "rows", "labels"),
    meta_fields=(),
    drop_fields=("readouts",),
)
@dataclasses.dataclass(eq=False)
class ReadoutLogitsMetadata:
    """Takes the place of sglang-jax's LogitsMetadata, and adds the read-out rows of a MultiItemBatch."""

    own: LogitsMetadata
    rows: Int32[Array, "R"]
    labels: Int32[Array, "R L"]
    readouts: Readouts | None = None  # for the host only; jitted functions do not see it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(eq=False)
class ReadoutLogitsOutput:
    """Takes the place of sglang-jax's LogitsProcessorOutput, and adds the log-probabilities."""

    own: LogitsProcessorOutput
    logprobs: Float[Array, "R L"]


def readout_logprobs(
    processor: LogitsProcessor,
    hidden_states: jax.Array,
    lm_head: Any,
    metadata: ReadoutLogitsMetadata,
) -> Float[Array, "R L"]:
    """Returns log P(label | query, item) at each read-out row and label, over the whole vocabulary.

    The result is float32 and replicated over the mesh.
    """
    replicated = NamedSharding(processor.mesh, P())
    labels = jax.sharding.reshard(metadata.labels, replicated)
    states = processor._select_hidden_states(hidden_states, metadata.rows)
    logits = processor._get_logits(states, lm_head).astype(jnp.float32)
    of_labels = logits.at[np.arange(labels.shape[0])[:, None], labels].get(out_sharding=replicated)
    normalisers = jax.sharding.reshard(jax.nn.logsumexp(logits, axis=-1), replicated)
    return of_labels - normalisers[:, None]


def attach_readout_rows(
    call: Callable[..., Any], batch: Any, mesh: Any = None
) -> LogitsMetadata | ReadoutLogitsMetadata:
    """Wraps LogitsMetadata.from_model_worker_batch: adds the read-out rows of a pass, on its devices."""
    own = call(batch, mesh)
    items: MultiItemBatch | None = getattr(batch, "isoprefill_items", None)
    if items is None:
        return own
    arrays = (items.readout_rows, items.readout_labels)
    rows, labels = device_array(arrays, sharding=NamedSharding(mesh, P("data")))
    return ReadoutLogitsMetadata(own, rows, labels, items.readouts)


def process(
    call: Callable[..., Any],
    self: LogitsProcessor,
    hidden_states: jax.Array,
    lm_head: Any,
    logits_metadata: LogitsMetadata | ReadoutLogitsMetadata,
    aux_hidden_states: jax.Array | None = None,
) -> LogitsProcessorOutput | ReadoutLogitsOutput:
    """Wraps LogitsProcessor.__call__: returns ReadoutLogitsOutput if it gets ReadoutLogitsMetadata."""
    if not isinstance(logits_metadata, ReadoutLogitsMetadata):
        return call(self, hidden_states, lm_head, logits_metadata, aux_hidden_states)
    own = call(self, hidden_states, lm_head, logits_metadata.own, aux_hidden_states)
    logprobs = readout_logprobs(self, hidden_states, lm_head, logits_metadata)
    return ReadoutLogitsOutput(own, logprobs)


def take_readouts(
    call: Callable[..., Any], self: Any, forward_batch: Any, logits_metadata: Any
) -> Any:
    """Wraps ModelRunner.forward: keeps the log-probabilities, and returns what sglang-jax expects."""
    output, *rest = call(self, forward_batch, logits_metadata)
    if isinstance(output, ReadoutLogitsOutput):
        logits_metadata.readouts.set(output.logprobs)
        output = output.own
    return (output, *rest)
