"""Compiles for a TPU on a machine without one: libtpu contains the real compiler, which needs no chip.

What compiles has passed the checks of lowering, tiling, alignment and memory limits that no interpreter makes.
libtpu serves one chip and one dump directory per process, so callers start a process for each.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from isoprefill_tpu_lab.chips import FIGURES
from isoprefill_tpu_lab.compiler_schedule import dump_flags

PROGRAMS = "programs"


def prepare_process(chip: str, dump_directory: str | None = None) -> None:
    """Sets the environment of libtpu. To be called before anything else uses jax.

    With a dump directory, libtpu leaves there the final schedule of everything that it compiles (`compiler_schedule`)
    and, in PROGRAMS below it, the programs as it leaves them (`compiled_program`).

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
        programs = f"--xla_dump_to={dump_directory}/{PROGRAMS} --xla_dump_hlo_as_text"
        os.environ["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), programs]))


def devices_of(chip: str, topology: str | None = None) -> list[jax.Device]:
    """Returns the devices of a topology of a chip, by default the smallest; they need not be there."""
    from jax.experimental import topologies

    name = topology or FIGURES[chip].topology
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)


def cores_of(chip: str) -> int:
    """Returns the cores that work as one device, and share out the grids of kernels and the windows of fusions.

    Two on v5p. On tpu7x each of a chip's two is a device of its own.
    """
    cores: int = devices_of(chip)[0].num_cores
    return cores


def lower_for(chip: str, function: Callable[..., Any], *arguments: Any) -> jax.stages.Lowered:
    """Lowers `function` for one core of `chip`; arguments are arrays or pytrees, of which only shapes count.

    Arguments that are sharded over a mesh of `devices_of` the chip stay so: then it is lowered for all of its devices.
    """
    one = jax.sharding.SingleDeviceSharding(devices_of(chip)[0])

    def shape_of(array: Any) -> jax.ShapeDtypeStruct:
        given = getattr(array, "sharding", None)
        sharding = given if isinstance(given, jax.sharding.NamedSharding) else one
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    shapes = jax.tree.map(shape_of, arguments)
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=("tpu",))


def compile_for(chip: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Compiles `function` for one core of `chip`; arguments as of `lower_for`."""
    return lower_for(chip, function, *arguments).compile()


def compiled_program(dump_directory: str) -> str:
    """Returns the text of the program that was compiled last: its optimised HLO, as its code was generated from it.

    Raises:
        FileNotFoundError: if none was.
    """
    found = list(pathlib.Path(dump_directory, PROGRAMS).glob("*.after_codegen.txt"))
    if not found:
        raise FileNotFoundError(f"no program was compiled with its dump in {dump_directory}")
    return max(found, key=lambda path: path.stat().st_mtime_ns).read_text()
