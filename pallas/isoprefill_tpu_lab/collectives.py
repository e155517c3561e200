"""What collectives between chips cost: the bytes that each device sends, around a ring in both directions."""

import dataclasses
import re

from isoprefill_tpu_lab.chips import ChipFigures
from isoprefill_tpu_lab.optimised_program import Instruction, OptimisedProgram

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
LINKS_OF_RING = 2


def is_collective(instruction: Instruction) -> bool:
    return instruction.opcode.startswith(KINDS)


def fused_collective(program: OptimisedProgram, instruction: Instruction) -> Instruction | None:
    """Returns the collective inside a fusion, or inside what another core does (tpu7x's sparse cores), or None.

    An all-reduce of which the fusion slices out the device's own rows is a reduce-scatter: so the compiler writes it.
    """
    inside = list(program.inside(instruction))
    found = next((one for one in inside if is_collective(one)), None)
    if found is None or found.opcode != "all-reduce":
        return found
    sliced = any(one.opcode == "dynamic-slice" for one in inside)
    return dataclasses.replace(found, opcode="reduce-scatter") if sliced else found


def link_seconds(sent: int, chip: ChipFigures) -> float:
    """Returns how long a device sends so many bytes over the two links of a ring."""
    return sent / (LINKS_OF_RING * chip.link_bytes_per_second)


def link_bytes(start: Instruction, done: Instruction) -> int:
    """Returns the bytes that each device sends.

    Args:
        start: the collective, or its start.
        done: what has its result: the same instruction, or its done.

    Raises:
        ValueError: the collective does not say which devices take part.
    """
    result = sum(shape.elements * shape.itemsize for shape in done.shapes)
    if start.opcode.startswith("collective-permute"):
        return result
    devices = _group_size(start)
    if start.opcode.startswith("reduce-scatter"):  # the result is a device's part
        return (devices - 1) * result
    rounds = 2 if start.opcode.startswith("all-reduce") else 1  # it scatters, then gathers
    return rounds * (devices - 1) * result // devices


def _group_size(collective: Instruction) -> int:
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", collective.attributes)
    if listed:
        return len(listed[1].split(","))
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]<=", collective.attributes)
    if counted is None:
        raise ValueError(f"the devices of {collective.name} are not known")
    return int(counted[1])
