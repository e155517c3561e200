"""The parts of a scoring step, and to which of them an instruction of its compiled program belongs."""

from isoprefill_tpu_lab.collectives import is_collective
from isoprefill_tpu_lab.optimised_program import Instruction, OptimisedProgram

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
    if is_collective(instruction):
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
