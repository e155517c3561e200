"""How many rows of a pack fit into the device's memory."""

import jax

from isoprefill.execution.failures import NotEnoughMemoryError, shown_bytes
from isoprefill.host.memory import address_space_left, host_bytes
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.weights.assembly import WeightBytes
from isoprefill.models.weights.params import Params

# Of the memory that the weights leave; the rest is for the prefix cache, logits and other programs.
SHARE = 1 / 8
FEWEST_ROWS = 512


def rows_that_fit(config: ModelConfig, free_bytes: int) -> int:
    """Returns the rows of a pack whose activations take at most a share of so many bytes: a power of two.

    Args:
        config: sizes of the model.
        free_bytes: of one device, beside the weights.
    """
    rows = max(FEWEST_ROWS, int(free_bytes * SHARE) // row_bytes(config))
    return 1 << (rows.bit_length() - 1)


def row_bytes(config: ModelConfig) -> int:
    """Estimates the bytes that a row's activations take in a layer, all of them float32; 38 KB for SmolLM2."""
    heads = config.num_query_heads + 2 * config.num_kv_heads
    stream = 4 * config.hidden_size  # before, normalised, added, after
    attention = (2 * heads + config.num_query_heads) * config.head_dim  # projected, rotated; result
    feed_forward = 3 * config.feed_forward_width
    if config.experts is not None:  # and what goes to and comes from each expert
        feed_forward = config.experts.chosen * (feed_forward + 2 * config.hidden_size)
    return 4 * (stream + attention + feed_forward)


def free_bytes(params: Params) -> int:
    """Returns the bytes of the default device beside the weights; of a CPU its share of all memory, used or not.

    All memory of a CPU is what the process may have: in a container less than the machine has.
    It does not depend on what else runs, so that the same list is cut in the same way at every start.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    left, mappable = host_bytes() - weights, address_space_left()
    if mappable is not None:
        left = min(left, mappable)
    return max(0, left // jax.local_device_count())


def check_weights_fit(name: str, dtype: str, weights: WeightBytes) -> None:
    """Checks that there is memory for a model, before it is read: else the system may end the process without a word.

    Args:
        name: of the model.
        dtype: of the weights.
        weights: what they take.

    Raises:
        NotEnoughMemoryError: with what is needed and what there is.
    """
    if jax.default_backend() != "cpu":
        return
    for what, limit in (
        ("this process may have", host_bytes()),
        ("its address space (ulimit -v) has room for", address_space_left()),
    ):
        if limit is not None and weights.num_bytes > limit:
            # Not of bfloat16 itself, nor of what float32 keeps in fewer bytes than four. Vectors stay float32.
            half = weights.in_bfloat16 < 0.6 * weights.num_bytes
            smaller = "bfloat16 takes half of it; else " if half else ""
            raise NotEnoughMemoryError(
                f"model {name} needs about {shown_bytes(weights.num_bytes)} for its weights in {dtype}, but {what} "
                f"{shown_bytes(limit)}: {smaller}take a smaller model, or give it more memory"
            )
