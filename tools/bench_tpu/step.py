"""Counts what a whole scoring step costs on a chip, from the compiler's schedule of every instruction (`step_cost`)."""

import contextlib
import dataclasses
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.sharding import Mesh

from bench_tpu.models import MODELS
from bench_tpu.scoring_step import Readout, ScoringStep
from isoprefill.execution.forward import TPU_ROWS_AT_ONCE
from isoprefill.execution.mesh import DATA, TENSOR
from isoprefill.models.config.config import ModelConfig
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.chips import CHIPS
from isoprefill_pallas.schedule import KernelSchedule
from isoprefill_tpu_lab import tpu_compiler
from isoprefill_tpu_lab.chips import FIGURES
from isoprefill_tpu_lab.compiler_schedule import CompiledKernel
from isoprefill_tpu_lab.cost_model import kernel_cost
from isoprefill_tpu_lab.instruction_schedule import read_bundles
from isoprefill_tpu_lab.kernel_costs import KernelCost, KnownKernel, layer_kernel_cost
from isoprefill_tpu_lab.optimised_program import OptimisedProgram
from isoprefill_tpu_lab.packs import PACKS, Pack
from isoprefill_tpu_lab.step_cost import InstructionCost, StepCounter
from isoprefill_tpu_lab.step_parts import PARTS

# With the heads of the model; the other packs are one of these, with other heads.
WORKLOADS = ("W", "S2", "P", "G")
# Topologies of so many devices, which a ring goes around. On tpu7x the two cores of a chip are devices.
TENSOR_TOPOLOGIES = {
    ("v5e", 4): "v5e:2x2",
    ("v5e", 8): "v5e:2x4",
    ("v6e", 4): "v6e:2x2",
    ("v6e", 8): "v6e:2x4",
    ("tpu7x", 8): "tpu7x:2x2x1",
}


@dataclasses.dataclass(frozen=True, slots=True)
class StepEstimate:
    """The count of one step.

    Attributes:
        instructions: every fusion, copy and kernel.
        bound_seconds: the model's useful operations at the peak of the devices that share them.
        compile_seconds: of the whole step, with its dump.
        argument_bytes, temporary_bytes: of a device's memory, as the compiler plans it.
        tensor: devices that share out the weights; what is counted is one of them.
    """

    instructions: list[InstructionCost]
    num_items: int
    bound_seconds: float
    compile_seconds: float
    argument_bytes: int
    temporary_bytes: int
    tensor: int = 1

    @property
    def seconds(self) -> float:
        return sum(cost.seconds for cost in self.instructions)

    def by_part(self) -> dict[str, tuple[float, int]]:
        """Returns seconds and bytes of HBM of each part."""
        found = dict.fromkeys(PARTS, (0.0, 0))
        for cost in self.instructions:
            seconds, moved = found[cost.part]
            found[cost.part] = (seconds + cost.seconds, moved + cost.hbm_bytes)
        return {part: total for part, total in found.items() if total != (0.0, 0)}

    def collectives(self) -> dict[str, float]:
        """Returns what a device sends to others, how long that takes alone, and the share that runs beside the rest."""
        sent = [cost for cost in self.instructions if cost.link_bytes]
        alone = sum(cost.link_seconds for cost in sent)
        left = sum(min(cost.seconds, cost.link_seconds) for cost in sent)
        return {
            "link_bytes": sum(cost.link_bytes for cost in sent),
            "link_seconds": alone,
            "overlapping_share": 1 - left / alone if alone else 0.0,
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "items_per_second": self.num_items / self.seconds,
            "share_of_peak": self.bound_seconds / self.seconds,
            "hbm_bytes": sum(cost.hbm_bytes for cost in self.instructions),
            "compile_seconds": self.compile_seconds,
            "argument_bytes": self.argument_bytes,
            "temporary_bytes": self.temporary_bytes,
            "devices": self.tensor,
            **({"collectives": self.collectives()} if self.tensor > 1 else {}),
            "parts": {
                part: {"seconds": seconds, "hbm_bytes": moved}
                for part, (seconds, moved) in self.by_part().items()
            },
            "instructions": [dataclasses.asdict(cost) for cost in self.instructions],
        }


def estimate_step(
    model: str, workload: str, readout: Readout, chip: str, dump: str, tensor: int = 1
) -> StepEstimate:
    """Compiles a step for a chip and counts it. `tpu_compiler.prepare_process` has run with the dump directory.

    Args:
        tensor: devices that share out the weights, 1 or as in TENSOR_TOPOLOGIES; the first is counted.

    Raises:
        JaxRuntimeError: it does not compile.
    """
    config = MODELS[model]
    begin = time.perf_counter()
    with for_chip(chip):
        mesh = None if tensor == 1 else tensor_mesh(chip, tensor)
        pack = of_model(PACKS[workload], config)
        step = ScoringStep.of(config, pack, readout, mesh=mesh, chip=chip)
        clear(dump)
        compiled = tpu_compiler.compile_for(chip, step.function(), *step.shapes(pack.dtype))
    memory = compiled.memory_analysis()
    took = time.perf_counter() - begin
    costs = count_step(step, PACKS[workload], chip, dump)
    clear(dump)
    useful = useful_operations(config, pack, step.read_rows)
    peak = FIGURES[chip].of_cores(tpu_compiler.cores_of(chip)).peak_flops
    return StepEstimate(
        costs,
        step.num_items,
        useful / tensor / peak,
        took,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        tensor,
    )


def count_step(step: ScoringStep, pack: Pack, chip: str, dump: str) -> list[InstructionCost]:
    """Counts what one device does of a step that was compiled with its dump."""
    config = step.config
    tensor = 1 if step.mesh is None else step.mesh.shape[TENSOR]
    pack = of_model(pack, config, tensor)
    kernels = {"isoprefill_anchored": attention_cost(pack, step.layout.schedule.sizes, chip, dump)}
    loop_times = {
        "jit(hidden_states)": config.num_layers,
        # Each device reads every so many blocks; the one with most counts.
        "jit(read)": -(-step.read_rows // (TPU_ROWS_AT_ONCE * tensor)),
    }
    return count(chip, dump, kernels, loop_times)


def count(
    chip: str, dump: str, kernels: Mapping[str, KernelCost], loop_times: Mapping[str, int]
) -> list[InstructionCost]:
    """Counts what one device does of the program that was compiled with its dump.

    Args:
        kernels: of the program, beside those of `isoprefill_pallas.layer_kernels`.
        loop_times: as of `StepCounter`.
    """
    of_layer = dict.fromkeys(("isoprefill_heads", "isoprefill_gated"), layer_kernel_cost)
    counter = StepCounter(
        program=OptimisedProgram.parse(tpu_compiler.compiled_program(dump)),
        bundles=read_bundles(dump),
        kernels={**of_layer, **kernels},
        loop_times=loop_times,
        chip=FIGURES[chip].of_cores(tpu_compiler.cores_of(chip)),
    )
    return counter.count()


def attention_cost(pack: Pack, sizes: BlockSizes, chip: str, dump: str) -> KernelCost:
    """Returns the cost of the attention's kernel on a pack, which was compiled with its dump."""
    schedule = KernelSchedule.of(pack.layout, sizes=sizes, padded=False)
    (part,) = schedule.parts
    compiled = CompiledKernel(dump, "isoprefill_anchored")
    cost = kernel_cost(compiled, part, schedule.sizes, pack, online=False)
    # The cost is that of one core with all KV heads, which are what the cores of a device share out.
    cores = tpu_compiler.cores_of(chip)
    cycles = cost.static_cycles * -(-pack.kv_heads // cores) // pack.kv_heads
    operations = 4 * pack.head_dim * pack.query_heads * cost.computed_pairs
    known = KnownKernel(cycles, cost.hbm_bytes, operations)
    return lambda *shapes: known


def tensor_mesh(chip: str, count: int) -> Mesh:
    """Returns so many devices as one mesh that shares out the weights."""
    topology = TENSOR_TOPOLOGIES[chip, count]
    devices = np.asarray(tpu_compiler.devices_of(chip, topology))
    return Mesh(devices.reshape(1, -1), (DATA, TENSOR))


def of_model(pack: Pack, config: ModelConfig, tensor: int = 1) -> Pack:
    """Returns the pack with the heads of a model that one of `tensor` devices has."""
    return dataclasses.replace(
        pack,
        query_heads=config.num_query_heads // tensor,
        kv_heads=config.num_kv_heads // tensor,
        head_dim=config.head_dim,
    )


def useful_operations(config: ModelConfig, pack: Pack, read_rows: int) -> float:
    """Returns the operations that no step can do without: products of rows that are not padding, visible pairs."""
    heads = (2 * config.num_query_heads + 2 * config.num_kv_heads) * config.head_dim
    layer = config.hidden_size * (heads + 3 * config.intermediate_size)
    projections = 2.0 * pack.layout.num_rows * layer * config.num_layers
    attention = 4.0 * config.num_query_heads * config.head_dim * pack.useful_pairs
    return (
        projections
        + attention * config.num_layers
        + 2.0 * read_rows * config.hidden_size * config.vocab_size
    )


@contextlib.contextmanager
def for_chip(chip: str) -> Iterator[None]:
    """Answers what the product asks JAX about its device, for the chip that is compiled for."""
    with (
        mock.patch.object(jax, "default_backend", return_value="tpu"),
        mock.patch("isoprefill_pallas.op.chip_of", return_value=CHIPS[chip]),
    ):
        yield


def clear(directory: str) -> None:
    """Deletes the schedules and programs of earlier compilations."""
    for path in pathlib.Path(directory).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
