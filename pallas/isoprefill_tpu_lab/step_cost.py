"""What a whole compiled program costs: one rule for every fusion, copy and kernel, times how often it runs.

    seconds = max(bundles of its final schedule / clock, or its FLOPs at the chip's peak, bytes of HBM / bandwidth)

The bundles are the compiler's own (`instruction_schedule`), those of the attention kernel counted by its tile schedule
(`cost_model`). Where the limit of a loop is not known, FLOPs at the peak stand for them. Bytes are those of operands
and results that lie in HBM, with the padding of their tiles; of a stacked weight, the slice that is read.

Copies that run beside other instructions (between their start and their done) take the bandwidth that these leave:
what does not fit there is added. A collective, or a fusion that holds one, takes its bytes over the links
(`collectives`) if that is longer than the rule above, as it computes on one piece while it sends another; less what
other instructions take between its start and its done, if it has these. Of a conditional, the first branch is counted:
the usual one here, that nothing has to be computed again and that no largest token was asked for.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from isoprefill_tpu_lab.chips import ChipFigures
from isoprefill_tpu_lab.collectives import link_bytes, link_seconds
from isoprefill_tpu_lab.instruction_schedule import InstructionBundles
from isoprefill_tpu_lab.kernel_costs import KernelCost
from isoprefill_tpu_lab.optimised_program import (
    Computation,
    Instruction,
    OptimisedProgram,
    operations_of,
)
from isoprefill_tpu_lab.step_parts import COLLECTIVE, part_of

FREE = {
    "after-all", "bitcast", "constant", "get-tuple-element", "iota", "parameter", "partition-id",
    "replica-id", "tuple", "opt-barrier",
}  # fmt: skip
KERNEL = 'custom_call_target="tpu_custom_call"'
FLOAT32_PASSES = 6  # of the matrix unit, for a product of full precision


@dataclasses.dataclass(frozen=True, slots=True)
class InstructionCost:
    """One instruction of a step, over all of its runs.

    Attributes:
        part: of the step, as `part_of` says.
        seconds: of all runs.
        compute_seconds: of all runs, without waiting for memory.
        hbm_bytes, operations: of all runs.
        times: how often it runs.
        from_schedule: its bundles are known.
        link_bytes, link_seconds: that each device sends to others in all runs, and how long that takes alone.
    """

    name: str
    opcode: str
    part: str
    shapes: str
    seconds: float
    compute_seconds: float
    hbm_bytes: int
    operations: float
    times: int
    from_schedule: bool
    link_bytes: int = 0
    link_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepCounter:
    """Counts a compiled program.

    Attributes:
        bundles: of its instructions, by name.
        kernels: by the beginning of their names.
        loop_times: how often loops run, by a piece of the scope of JAX that they come from.
    """

    program: OptimisedProgram
    bundles: Mapping[str, InstructionBundles]
    kernels: Mapping[str, KernelCost]
    loop_times: Mapping[str, int]
    chip: ChipFigures

    def count(self) -> list[InstructionCost]:
        """Returns the costs of all instructions that take time.

        Raises:
            ValueError: for a loop whose times are not known.
        """
        return list(self._computation(self.program.entry, 1))

    def _computation(self, name: str, times: int) -> Iterator[InstructionCost]:
        of = self.program.computations[name]
        slack: dict[str, float] = {}  # seconds in which an instruction leaves the memory alone
        busy: dict[str, float] = {}  # seconds that it takes
        order = list(of)
        for instruction in of.values():
            if instruction.opcode == "while":
                (body,) = instruction.called("body")
                yield from self._computation(body, times * self._times_of(instruction))
            elif instruction.opcode == "conditional":
                branches = instruction.called("branch_computations")
                usual = branches[0] if branches else instruction.called("false_computation")[0]
                yield from self._computation(usual, times)
            elif instruction.opcode.endswith(("-start", "-update")):
                continue
            elif instruction.opcode.endswith("-done"):
                yield from self._asynchronous(of, order, slack, busy, instruction, times)
            elif instruction.opcode not in FREE:
                cost = self._cost(of, instruction, times)
                sent = link_bytes(self.program, instruction, instruction)
                if sent is not None:
                    nothing = self._row(instruction, times, 0.0, 0.0, 0, 0.0, True)
                    cost = self._over_links(cost or nothing, sent)
                if cost is None:
                    continue
                moving = cost.hbm_bytes / self.chip.hbm_bytes_per_second
                # Of one run, as copies and collectives beside it are.
                slack[instruction.name] = max(0.0, cost.seconds - moving) / times
                if sent is None:  # else the links are taken
                    busy[instruction.name] = cost.seconds / times
                yield cost

    def _times_of(self, loop: Instruction) -> int:
        for scope, times in self.loop_times.items():
            if scope in loop.op_name:
                return times
        raise ValueError(
            f"no times are known for the loop {loop.name} of {loop.op_name!r}, only of {sorted(self.loop_times)}"
        )

    def _cost(self, of: Computation, at: Instruction, times: int) -> InstructionCost | None:
        moved = self.program.read_bytes(of, at) + self.program.written_bytes(at)
        operations = self.program.operations(at)
        cycles: float | None = None
        if at.opcode == "custom-call":
            if KERNEL not in at.attributes:
                return None  # joins and allocations that move nothing
            cost_of = next(
                (k for name, k in self.kernels.items() if at.name.startswith(name)), None
            )
            if cost_of is not None:
                operands = [shape for name in at.operands for shape in of[name].shapes]
                known = cost_of(operands, at.shapes)
                cycles, moved, operations = known.cycles, known.hbm_bytes, known.operations
        if cycles is None and at.name in self.bundles:
            cycles = self.bundles[at.name].executed(at.iterations)
        at_peak = (
            operations
            if at.opcode == "custom-call"
            else sum(
                operations_of(product, factors)
                * (FLOAT32_PASSES if factors[0].itemsize == 4 else 1)
                for product, factors in self.program.products(at)
            )
        )
        compute = at_peak / self.chip.peak_flops if cycles is None else cycles / self.chip.clock_hz
        seconds = max(compute, moved / self.chip.hbm_bytes_per_second)
        return self._row(at, times, seconds, compute, moved, operations, cycles is not None)

    def _asynchronous(
        self,
        of: Computation,
        order: list[str],
        slack: dict[str, float],
        busy: Mapping[str, float],
        done: Instruction,
        times: int,
    ) -> Iterator[InstructionCost]:
        """Yields what a copy or a collective beside other instructions takes beyond what these leave."""
        start = of.get(done.operands[0]) if done.operands else None
        sources: tuple[str, ...] = ()
        update = None
        while start is not None and not start.opcode.endswith("-start"):
            update = start  # which has what the start waits for
            sources = start.operands[1:]
            start = of.get(start.operands[0]) if start.operands else None
        if start is None:
            return
        begin, end = order.index(start.name), order.index(done.name)
        sent = link_bytes(self.program, start, done)
        if sent is not None:
            ready = begin if update is None else order.index(update.name)
            beside = sum(busy.get(name, 0.0) for name in order[ready:end])
            arrays = [
                *done.shapes,
                *(s for name in start.operands or sources for s in of[name].shapes),
            ]
            moved = sum(shape.hbm_bytes for shape in arrays)
            seconds = moved / self.chip.hbm_bytes_per_second
            alone = self._row(done, times, seconds, 0.0, moved, 0.0, True)
            yield self._over_links(alone, sent, beside)
            return
        sources = start.operands or sources
        # A slice or a gather moves as much as its target holds.
        size = sum(shape.stored_bytes for shape in done.shapes)
        moved = size * sum(
            any(shape.memory_space == 0 for shape in side)
            for side in (
                [of[name].shapes[0] for name in sources[:1] if of[name].shapes],
                done.shapes,
            )
        )
        left = moved / self.chip.hbm_bytes_per_second
        for name in order[begin:end]:
            taken = min(left, slack.get(name, 0.0))
            if taken:
                slack[name] -= taken
                left -= taken
        if moved and any(shape.sizes for shape in done.shapes):
            yield self._row(done, times, left, 0.0, moved, 0.0, True)

    def _over_links(self, cost: InstructionCost, sent: int, beside: float = 0.0) -> InstructionCost:
        """Returns the cost of an instruction that sends bytes, without the seconds of what runs beside it."""
        links = link_seconds(sent, self.chip)
        alone = max(cost.seconds / cost.times, links)
        return dataclasses.replace(
            cost,
            part=COLLECTIVE,
            seconds=max(0.0, alone - beside) * cost.times,
            link_bytes=sent * cost.times,
            link_seconds=links * cost.times,
        )

    def _row(
        self,
        at: Instruction,
        times: int,
        seconds: float,
        compute: float,
        moved: int,
        operations: float,
        from_schedule: bool,
    ) -> InstructionCost:
        shapes = ", ".join(f"{s.dtype}{list(s.sizes)}" for s in at.shapes[:3])
        return InstructionCost(
            at.name,
            at.opcode,
            part_of(self.program, at),
            shapes,
            seconds * times,
            compute * times,
            moved * times,
            operations * times,
            times,
            from_schedule,
        )
