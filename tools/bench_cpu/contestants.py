"""The implementations that bench_cpu measures, by name."""

import importlib.util

from bench_cpu.implementation import Dtype, Implementation
from bench_cpu.llamacpp_peer import LlamaCppPeer
from bench_cpu.ours import Ours
from bench_cpu.torch_peer import TorchPeer, has_compiler

OURS = ("packed", "packed_extend", "prefill_extend", "serial", "auto")
PEERS = ("serial", "batched", "extend", "dense", "flex", "compiled")
# The query's keys and values are there from an earlier request: not the work that the others do.
WARM = ("ours-warm_query", "torch-warm_query")
COMPILED = ("torch-compiled",)  # the compiler takes minutes
LLAMACPP = "llamacpp"
NAMES = (
    *(f"ours-{way}" for way in OURS),
    *(f"torch-{way}" for way in PEERS),
    *WARM,
    LLAMACPP,
)
# Their time is linear in the number of items.
ITEM_BY_ITEM = ("ours-serial", "torch-serial", "torch-batched")
# Measured for small requests only, unless they are asked for.
OF_SMALL = (*COMPILED, *WARM, LLAMACPP)


def is_present(name: str) -> bool:
    """Returns whether this machine has what the implementation needs beyond our packages."""
    if name == LLAMACPP:
        return importlib.util.find_spec("llama_cpp") is not None
    return name not in COMPILED or has_compiler()


def contestant(name: str, dtype: Dtype, model: str) -> Implementation:
    """Makes the implementation of that name: "ours-" and an algorithm, "torch-" and a way, or "llamacpp"."""
    library, _, way = name.partition("-")
    if library == LLAMACPP:
        return LlamaCppPeer(dtype, model)
    if library == "torch":
        return TorchPeer(way, dtype, model)
    warm = name in WARM
    return Ours("packed_extend" if warm else way, dtype, model, warm=warm)
