"""Reads a program as the TPU's compiler gets it and as it leaves it: the precision of every product, and memory.

A kernel is a custom call whose configuration holds its Mosaic module; what is not in a kernel is StableHLO.
"""

import base64
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from jax._src.lib import tpu
from jax._src.lib.mlir import ir

VMEM = "1"
SCALARS = re.compile(r"memref<([\dx]+)xi32, #tpu.memory_space<smem>>")


def products(lowered: Any) -> list[list[str]]:
    """[where, dtype of the left operand, precision] of every product of a `jax.stages.Lowered`, each once.

    "where" is "kernel" or "program".
    """
    found = set()
    for operation in _operations(lowered.compiler_ir("stablehlo").operation):
        if operation.name == "stablehlo.dot_general":
            dtype = ir.RankedTensorType(operation.operands[0].type).element_type
            precision = operation.attributes["precision_config"]
            found.add(("program", str(dtype), " ".join(_word(each) for each in precision)))
    for kernel in _kernels(lowered):
        for operation in _operations(kernel):
            if operation.name.rsplit(".", 1)[-1] in ("matmul", "contract"):
                dtype = str(ir.VectorType(operation.operands[0].type).element_type)
                given = "precision" in operation.attributes
                precision = _word(operation.attributes["precision"]) if given else "default"
                found.add(("kernel", dtype, precision))
    return sorted(map(list, found))


def smem_bytes(lowered: Any) -> int:
    """What the kernel that has the most keeps in scalar memory; all of it is int32."""
    most = 0
    for kernel in _kernels(lowered):
        signature = str(kernel.regions[0].blocks[0].operations[0].attributes["function_type"])
        sizes = [
            4 * math.prod(int(size) for size in shape.split("x"))
            for shape in SCALARS.findall(signature)
        ]
        most = max(most, sum(sizes))
    return most


def vmem_bytes(optimized: str) -> int:
    """What the compiler says, in the HLO that it leaves, that the largest kernel uses of VMEM."""
    used = re.findall(r'"used_scoped_memory_configs":(\[[^\]]*\])', optimized)
    sizes = [
        int(one["size"])
        for configs in used
        for one in json.loads(configs)
        if one["memory_space"] == VMEM
    ]
    return max(sizes, default=0)


def _kernels(lowered: Any) -> Iterator[ir.Operation]:
    """The module of each kernel, inside its context."""
    for operation in _operations(lowered.compiler_ir("stablehlo").operation):
        if operation.name != "stablehlo.custom_call":
            continue
        if ir.StringAttr(operation.attributes["call_target_name"]).value != "tpu_custom_call":
            continue
        config = json.loads(ir.StringAttr(operation.attributes["backend_config"]).value)
        module = base64.b64decode(config["custom_call_config"]["body"])
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            tpu.register_dialect(context)
            yield ir.Module.parse(module).operation


def _word(attribute: ir.Attribute) -> str:
    """`fp32` of `#tpu.contract_precision<fp32>`."""
    return re.search(r"<(?:\w+ )?(\w+)>", str(attribute))[1]


def _operations(root: ir.Operation) -> Iterator[ir.Operation]:
    for region in root.regions:
        for block in region:
            for operation in block:
                yield operation.operation
                yield from _operations(operation.operation)
