"""Compiles for a TPU on a machine without one: libtpu contains the real compiler, which needs no chip.

What compiles has passed the checks of lowering, tiling, alignment and memory limits that no interpreter makes.
libtpu serves one chip and one dump directory per process, so callers start a process for each.
"""

import os
from collections.abc import Callable
from typing import Any

import jax

from isoprefill_tpu_lab.chips import FIGURES
from isoprefill_tpu_lab.compiler_schedule import dump_flags


def prepare_process(chip: str, dump_directory: str | None = None) -> None:
    """Sets the environment of libtpu. To be called before anything else uses jax.

    Raises:
        ValueError: for a chip that is not known.
        ModuleNotFoundError: without libtpu.
    """
    if chip not in FIGURES:
        raise ValueError(f"chip must be one of {sorted(FIGURES)}, got {chip!r}")
    import libtpu  # noqa: F401

    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE=FIGURES[chip].accelerator_type,
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
        # Processes that compile side by side would fight over a lock file that guards chips.
        ALLOW_MULTIPLE_LIBTPU_LOAD="true",
    )
    if dump_directory is not None:
        os.environ["LIBTPU_INIT_ARGS"] = dump_flags(dump_directory)


def lower_for(chip: str, function: Callable[..., Any], *arguments: Any) -> jax.stages.Lowered:
    """Lowers `function` for one core of `chip`; arguments are arrays or pytrees, of which only shapes count."""
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name=FIGURES[chip].topology)
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])

    def shape_of(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    shapes = jax.tree.map(shape_of, arguments)
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=("tpu",))


def compile_for(chip: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Compiles `function` for one core of `chip`; arguments as of `lower_for`."""
    return lower_for(chip, function, *arguments).compile()
