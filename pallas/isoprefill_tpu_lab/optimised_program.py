"""Reads a program as the TPU's compiler leaves it: optimised and scheduled HLO, as text.

libtpu writes it beside the schedules of its instructions (`compiler_schedule.dump_flags`). It says of every array in
which order of dimensions it lies, how it is tiled, and whether it is in HBM or in VMEM.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8}
_ARRAY = re.compile(r"\b(pred|bf16|f8\w*|[fsu]\d+)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"\s+(ROOT )?%([\w.\-]+) = ")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True, slots=True)
class ArrayShape:
    """One array: its dtype, its sizes, and where and how it lies.

    Attributes:
        order: dimensions from the one that is contiguous in memory on.
        tile: sizes of a tile, of the last dimensions of memory; () if there is none.
        memory_space: 0 is HBM, 1 VMEM.
    """

    dtype: str
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    memory_space: int

    @property
    def itemsize(self) -> int:
        return _BYTES.get(self.dtype, 1 if self.dtype.startswith("f8") else 4)

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def stored_bytes(self) -> int:
        """Bytes with the padding of the tiles."""
        sizes = [self.sizes[dimension] for dimension in self.order]
        for place, of_tile in zip(range(len(sizes)), reversed(self.tile), strict=False):
            sizes[place] = -(-sizes[place] // of_tile) * of_tile
        return math.prod(sizes) * self.itemsize

    @property
    def hbm_bytes(self) -> int:
        return self.stored_bytes if self.memory_space == 0 else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its result's arrays, its operands' names, and the rest of its line."""

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def called(self, attribute: str) -> tuple[str, ...]:
        """Returns the computations that an attribute such as "calls" names."""
        found = re.search(rf"\b{attribute}=(?:\{{([^}}]*)\}}|%([\w.\-]+))", self.attributes)
        return tuple(re.findall(r"[\w.\-]+", found[1] or found[2])) if found else ()

    @property
    def op_name(self) -> str:
        """The path of JAX's scopes that it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def iterations(self) -> int | None:
        """Windows that the instruction's pipeline computes one after another."""
        found = re.search(r'"iteration_bounds":\[([^\]]*)\]', self.attributes)
        return math.prod(int(count) for count in re.findall(r"\d+", found[1])) if found else None


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True, slots=True)
class OptimisedProgram:
    """The computations of a program, each its instructions by name, in the order in which they run."""

    computations: dict[str, Computation]
    entry: str

    @classmethod
    def parse(cls, text: str) -> "OptimisedProgram":
        """Reads the text of a scheduled HLO module.

        Raises:
            ValueError: if there is no entry computation, or an instruction cannot be read; with its line.
        """
        computations: dict[str, Computation] = {}
        entry, current = None, None
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
            elif current is not None and _NAME.match(line):
                instruction = _instruction(line)
                current[instruction.name] = instruction
        if entry is None:
            raise ValueError(f"the program has no ENTRY among {len(computations)} computations")
        return cls(computations, entry)

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """Yields the instructions of a fusion, and of what it calls."""
        called = (*instruction.called("calls"), *instruction.called("called_computations"))
        for computation in called:
            for inner in self.computations[computation].values():
                yield inner
                yield from self.inside(inner)

    def operations(self, instruction: Instruction) -> float:
        """Returns the multiplications and additions of an instruction's products."""
        return sum(operations_of(*found) for found in self.products(instruction))

    def products(
        self, instruction: Instruction
    ) -> Iterator[tuple[Instruction, tuple[ArrayShape, ArrayShape]]]:
        """Yields the products of matrices in an instruction, each with the shapes of its factors."""
        for computation in instruction.called("calls"):
            of = self.computations[computation]
            for inner in of.values():
                if inner.opcode in ("convolution", "dot"):
                    left, right = (of[name].shapes[0] for name in inner.operands[:2])
                    yield inner, (left, right)
                yield from self.products(inner)

    def read_bytes(self, within: Computation, instruction: Instruction) -> int:
        """Returns the bytes of HBM that an instruction reads: of an operand that it slices, the slices only."""
        (called,) = instruction.called("calls") or (None,)
        total = 0
        for index, name in enumerate(instruction.operands):
            shapes = within[name].shapes
            whole = sum(shape.hbm_bytes for shape in shapes)
            part = None if called is None else self._sliced_bytes(called, index)
            if instruction.opcode in ("dynamic-slice", "gather", "slice") and index == 0:
                part = sum(shape.stored_bytes for shape in instruction.shapes)
            total += whole if part is None else min(whole, part)
        return total

    def written_bytes(self, instruction: Instruction) -> int:
        """Returns the bytes of HBM that an instruction writes: of an update in place, what is new."""
        whole = sum(shape.hbm_bytes for shape in instruction.shapes)
        for inner in self.inside(instruction):
            if inner.root and inner.opcode == "dynamic-update-slice":
                (called,) = (c for c in self.computations.values() if c.get(inner.name) is inner)
                return min(whole, called[inner.operands[1]].shapes[0].stored_bytes)
        return whole

    def _sliced_bytes(self, computation: str, index: int) -> int | None:
        """Returns the bytes of the slices if a fusion only slices its operand, else None."""
        of = self.computations[computation]
        parameter = next(
            inner.name
            for inner in of.values()
            if inner.opcode == "parameter" and inner.attributes.startswith(f"{index})")
        )
        total = 0
        for user in (inner for inner in of.values() if parameter in inner.operands):
            if (
                user.opcode in ("dynamic-slice", "gather", "slice")
                and user.operands[0] == parameter
            ):
                total += sum(shape.stored_bytes for shape in user.shapes)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter:
                continue
            elif user.opcode == "fusion":
                (called,) = user.called("calls")
                part = self._sliced_bytes(called, user.operands.index(parameter))
                if part is None:
                    return None
                total += part
            else:
                return None
        return total


def operations_of(product: Instruction, factors: tuple[ArrayShape, ArrayShape]) -> float:
    """Returns the multiplications and additions of a product [M, K] x [K, N], whose depth follows from its sizes."""
    left, right = factors
    out = product.shapes[0].elements
    return 2 * math.sqrt(left.elements * right.elements * out)


def _instruction(line: str) -> Instruction:
    name = _NAME.match(line)
    assert name is not None
    rest = _COMMENT.sub("", line[name.end() :])
    try:
        end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
        opcode, _ = rest[end:].strip().split("(", 1)
        begin = rest.index("(", end)
        close = _closing(rest, begin)
    except ValueError:
        raise ValueError(f"an instruction that cannot be read: {line.strip()[:200]}") from None
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[begin:close]))
    # A parameter's number stays with the attributes.
    attributes = rest[begin + 1 :] if opcode == "parameter" else rest[close + 1 :]
    shapes = tuple(_shapes(rest[:end]))
    return Instruction(name[2], opcode, shapes, operands, attributes, name[1] is not None)


def _closing(text: str, begin: int) -> int:
    """Returns where the bracket at `begin` closes."""
    depth = 0
    for place in range(begin, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError("unbalanced")


def _shapes(text: str) -> Iterator[ArrayShape]:
    for dtype, sizes, layout in _ARRAY.findall(text):
        yield _shape(dtype, sizes, layout)


@functools.cache
def _shape(dtype: str, sizes: str, layout: str) -> ArrayShape:
    of = tuple(int(size) for size in sizes.split(",") if size)
    order, _, how = layout.partition(":")
    given = tuple(int(dimension) for dimension in order.split(",") if dimension)
    tile = re.match(r"T\(([\d,]+)\)", how)
    space = re.search(r"S\((\d+)\)", how)
    return ArrayShape(
        dtype,
        of,
        given if len(given) == len(of) else tuple(reversed(range(len(of)))),
        tuple(int(size) for size in tile[1].split(",")) if tile else (),
        int(space[1]) if space else 0,
    )
