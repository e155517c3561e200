"""What a whole compiled program costs: one rule for every fusion, copy and kernel, times how often it runs.

    seconds = max(bundles of its final schedule / clock, or its FLOPs at the chip's peak, bytes of HBM / bandwidth)

The bundles are the compiler's own (`instruction_schedule`), those of the attention kernel counted by its tile schedule
(`cost_model`). Where the limit of a loop is not known, FLOPs at the peak stand for them. Bytes are those of operands
and results that lie in HBM, with the padding of their tiles; of a stacked weight, the slice that is read.

Copies that run beside other instructions (between their start and their done) take the bandwidth that these leave:
what does not fit there is added. Of a conditional, the first branch is counted: the usual one here, that nothing has
to be computed again and that no largest token was asked for.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from isoprefill_pallas.layer_kernels import rows_of_tile
from isoprefill_tpu_lab.chips import ChipFigures
from isoprefill_tpu_lab.instruction_schedule import InstructionBundles
from isoprefill_tpu_lab.optimised_program import (
    ArrayShape,
    Computation,
    Instruction,
    OptimisedProgram,
    operations_of,
)

FREE = {
    "after-all", "bitcast", "constant", "get-tuple-element", "iota", "parameter", "partition-id",
    "replica-id", "tuple", "opt-barrier",
}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
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


@dataclasses.dataclass(frozen=True, slots=True)
class KnownKernel:
    """What is known of one run of a kernel, beyond its instruction.

    Attributes:
        cycles: if the schedule of its grid decides how often its loops run; None: its bundles say it.
    """

    cycles: int | None
    hbm_bytes: int
    operations: float


# Of the shapes of a kernel's operands, and of its results.
KernelCost = Callable[[Sequence[ArrayShape], Sequence[ArrayShape]], KnownKernel]


def layer_kernel_cost(operands: Sequence[ArrayShape], results: Sequence[ArrayShape]) -> KnownKernel:
    """Returns what is known of a kernel of `isoprefill_pallas.layer_kernels`.

    The layer's part of stacked weights passes once for each tile of rows; everything else once.
    """
    (rows, depth), (_, width) = (array.sizes for array in (operands[1], results[0]))
    tiles = -(-rows // rows_of_tile(rows, depth))
    weights = [array for array in operands if len(array.sizes) == 3]
    others = [array for array in (*operands, *results) if len(array.sizes) < 3]
    moved = sum(array.hbm_bytes // array.sizes[0] * tiles for array in weights)
    moved += sum(array.hbm_bytes for array in others)
    return KnownKernel(None, moved, 2.0 * rows * depth * width * len(weights))


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
                yield from self._asynchronous(of, order, slack, instruction, times)
            elif instruction.opcode not in FREE:
                cost = self._cost(of, instruction, times)
                if cost is not None:
                    moving = cost.hbm_bytes / self.chip.hbm_bytes_per_second
                    slack[instruction.name] = max(0.0, cost.seconds - moving)
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
        done: Instruction,
        times: int,
    ) -> Iterator[InstructionCost]:
        """Yields what a copy beside other instructions takes beyond what these leave."""
        start = of.get(done.operands[0]) if done.operands else None
        sources: tuple[str, ...] = ()
        while start is not None and not start.opcode.endswith("-start"):
            sources = start.operands[1:]  # an update of one, which has what the start waits for
            start = of.get(start.operands[0]) if start.operands else None
        if start is None or start.opcode.startswith(COLLECTIVES):
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
        begin, end = order.index(start.name), order.index(done.name)
        for name in order[begin:end]:
            taken = min(left, slack.get(name, 0.0))
            if taken:
                slack[name] -= taken
                left -= taken
        if moved and any(shape.sizes for shape in done.shapes):
            yield self._row(done, times, left, 0.0, moved, 0.0, True)

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


ATTENTION, CERTIFICATE, COPIES, OTHER = "attention", "certificate", "copies", "other"
PROJECTIONS, FEED_FORWARD, NORMS, HEAD = "projections", "feed-forward", "norms and RoPE", "head"
EMBEDDING, COLLECTIVE = "embedding", "collectives"
PARTS = (
    ATTENTION, PROJECTIONS, FEED_FORWARD, NORMS, COPIES, CERTIFICATE, COLLECTIVE, HEAD, EMBEDDING, OTHER,
)  # fmt: skip
# The scopes of the decoder (`jax.named_scope`) and of the compiled functions, the innermost first.
SCOPES = {
    "norm/": NORMS,
    "rope/": NORMS,
    "projections/": PROJECTIONS,
    "feed_forward/": FEED_FORWARD,
    "jit(_attend)/": CERTIFICATE,
    "embedding/": EMBEDDING,
    "jit(read)": HEAD,
}
_MOVES = {
    "bitcast", "broadcast", "concatenate", "constant", "copy", "dynamic-slice", "pad", "parameter", "reshape", "slice",
    "transpose", "tuple",
}  # fmt: skip


def part_of(program: OptimisedProgram, instruction: Instruction) -> str:
    """Returns the part of the step that an instruction belongs to.

    A fusion with a product belongs to the product; one that only moves numbers, and a copy, to the copies, but looking
    embeddings up to the embedding. The rest go by the scope that they come from.
    """
    if instruction.opcode.startswith(COLLECTIVES):
        return COLLECTIVE
    if instruction.opcode == "async-done" and _scope(instruction.op_name) == EMBEDDING:
        return EMBEDDING
    if instruction.opcode == "custom-call" and instruction.name.startswith("isoprefill_"):
        kind = instruction.name.split(".")[0]
        return KERNEL_PARTS.get(kind, ATTENTION)
    products = [product for product, _ in program.products(instruction)]
    if products:
        return _scope(products[0].op_name) or _scope(instruction.op_name) or OTHER
    inner = list(program.inside(instruction))
    moves = instruction.opcode in ("copy", "transpose", "reshape", "copy-done", "async-done")
    kinds = {i.opcode for i in inner if i.opcode != "fusion"}
    if moves or (inner and kinds <= _MOVES and "jit(read)" not in instruction.op_name):
        return COPIES
    names = [instruction.op_name, *(i.op_name for i in inner)]
    return next((scope for name in names if (scope := _scope(name))), OTHER)


# The product's other kernels.
KERNEL_PARTS = {"isoprefill_heads": PROJECTIONS, "isoprefill_gated": FEED_FORWARD}


def _scope(op_name: str) -> str | None:
    inside = [piece for piece in SCOPES if piece in op_name]
    return SCOPES[max(inside, key=op_name.rfind)] if inside else None
