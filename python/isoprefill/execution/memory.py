"""How many rows of a pack fit into the device's memory."""

import contextlib
import os
from pathlib import Path

import jax

from isoprefill.models.config import ModelConfig
from isoprefill.models.params import Params

# Of the memory that the weights leave; the rest is for the prefix cache, logits and other programs.
SHARE = 1 / 8
FEWEST_ROWS = 512
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


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
    feed_forward = 3 * config.intermediate_size
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
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    total = min([machine, *_control_group_limits()]) // jax.local_device_count()
    return max(0, total - sum(leaf.nbytes for leaf in jax.tree.leaves(params)))


def _control_group_limits() -> list[int]:
    """Returns the memory limits, in bytes, of the process's control groups (versions 1 and 2) and those above them."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return []
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)  # "4:memory:/docker/1f2e", or "0::/docker/1f2e"
        if not controllers:
            limits += _limits_upwards(_GROUPS, group, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits_upwards(_GROUPS / "memory", group, "memory.limit_in_bytes")
    return limits


def _limits_upwards(root: Path, group: str, name: str) -> list[int]:
    """Returns the numbers in the files of that name from the group up to the root.

    In a container the root may be the process's own group, under a path that only the machine knows.
    """
    own = Path(os.path.normpath(group)).relative_to("/")
    limits = []
    for folder in (own, *own.parents):
        with contextlib.suppress(OSError, ValueError):  # no such file; "max", which is no limit
            limits.append(int((root / folder / name).read_text()))
    return limits
