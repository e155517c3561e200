"""What collectives between chips cost: the bytes that each device sends, around a ring in both directions.

The compiler leaves a collective as an instruction, as a start and its done, inside a fusion (a reduce-scatter, with
the padding of its rows), or inside what another core does (tpu7x's sparse cores).
"""

import re

from isoprefill_tpu_lab.chips import ChipFigures
from isoprefill_tpu_lab.optimised_program import Computation, Instruction, OptimisedProgram

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
LINKS_OF_RING = 2
# What a sum over devices goes through unchanged on its way to the slice that a device keeps.
_PASSES = ("bitcast", "bitcast-convert", "convert", "copy", "reshape")


def is_collective(instruction: Instruction) -> bool:
    return instruction.opcode.startswith(KINDS)


def link_seconds(sent: int, chip: ChipFigures) -> float:
    """Returns how long a device sends so many bytes over the two links of a ring."""
    return sent / (LINKS_OF_RING * chip.link_bytes_per_second)


def link_bytes(program: OptimisedProgram, start: Instruction, done: Instruction) -> int | None:
    """Returns the bytes that each device sends in the collectives that an instruction is or holds; None: none.

    Args:
        start: the instruction, or the start of one that runs beside others.
        done: what has its result: the same instruction, or its done.

    Raises:
        ValueError: a collective does not say which devices take part, or only a part of it is in the instruction.
    """
    if is_collective(start):
        return _sent(start, done, scatters=False)
    inside = [one for one in program.inside(start) if is_collective(one)]
    for one in inside:
        if one.opcode not in KINDS:
            raise ValueError(f"{start.name} holds {one.opcode} {one.name}, only a part of it")
    if not inside:
        return None
    return sum(_sent(one, one, scatters=_keeps_a_share(program, one)) for one in inside)


def _sent(collective: Instruction, done: Instruction, *, scatters: bool) -> int:
    result = sum(shape.elements * shape.itemsize for shape in done.shapes)
    kind = collective.opcode
    if kind.startswith("collective-permute"):
        return result
    devices = _group_size(collective)
    if kind.startswith("reduce-scatter"):  # the result is a device's part
        return (devices - 1) * result
    # An all-reduce scatters, then gathers.
    rounds = 2 if kind.startswith("all-reduce") and not scatters else 1
    return rounds * (devices - 1) * result // devices


def _keeps_a_share(program: OptimisedProgram, collective: Instruction) -> bool:
    """Whether an all-reduce inside a fusion is a reduce-scatter: the fusion keeps nothing but a device's share of it.

    So the compiler writes it: it slices the sum, at a place that is not fixed.
    """
    if collective.opcode != "all-reduce":
        return False
    of = next(c for c in program.computations.values() if c.get(collective.name) is collective)
    return _only_sliced(of, collective, collective.shapes[0].elements // _group_size(collective))


def _only_sliced(of: Computation, array: Instruction, share: int) -> bool:
    """Whether nothing is made of an array but slices of so many elements."""
    users = [user for user in of.values() if array.name in user.operands]
    for user in users:
        if user.opcode == "dynamic-slice" and user.operands[0] == array.name:
            fixed = all(of[offset].opcode == "constant" for offset in user.operands[1:])
            if fixed or user.shapes[0].elements != share:
                return False
        elif user.opcode not in _PASSES or not _only_sliced(of, user, share):
            return False
    return bool(users) and not array.root


def _group_size(collective: Instruction) -> int:
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", collective.attributes)
    if listed:
        return len(listed[1].split(","))
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]<=", collective.attributes)
    if counted is None:
        raise ValueError(f"the devices of {collective.name} are not known")
    return int(counted[1])
