"""Compiles cases for one chip with libtpu and prints a JSON line for each: `compile_cases.py CHIP CASES`.

CASES is a JSON list of {"groups", "head_dim", "dtype"}, with "prefixes": "short" for a pack of that kind, or
{"control": true}, a kernel that cannot be lowered.
"""

import json
import sys
import time

from isoprefill_pallas import tpu_compiler


def compile_kernel(chip: str, case: dict) -> dict:
    import jax
    import jax.numpy as jnp

    from isoprefill_csrc import build_layout
    from isoprefill_pallas.block_sizes import choose_block_sizes
    from isoprefill_pallas.chips import CHIPS
    from isoprefill_pallas.heads import Heads
    from isoprefill_pallas.op import pallas_attention
    from isoprefill_pallas.schedule import KernelSchedule

    groups, head_dim, dtype = case["groups"], case["head_dim"], case["dtype"]
    rows = 8192
    # A prefix of 1000 is a pack of the kind "short", one of 4000 of the kind "long": block_sizes.py.
    prefix = 1000 if case.get("prefixes") == "short" else 4000
    layout = build_layout(prefix_lens=[prefix], item_lens=[[20] * 50], pad_to=rows)
    sizes = choose_block_sizes(
        chip, Heads(2 * groups, 2, head_dim, dtype), layout.row_intervals, rows
    )
    schedule = KernelSchedule.build(layout, sizes)
    q = jax.ShapeDtypeStruct((rows, 2 * groups, head_dim), jnp.dtype(dtype))
    kv = jax.ShapeDtypeStruct((rows, 2, head_dim), jnp.dtype(dtype))

    def attend(q, k, v, schedule):
        return pallas_attention(
            q,
            k,
            v,
            schedule,
            scale=0.1,
            interpret=False,
            vmem_limit_bytes=CHIPS[chip].vmem_limit_bytes,
        )

    arguments = (q, kv, kv, schedule)
    memory = tpu_compiler.compile_for(chip, attend, *arguments).memory_analysis()
    return {
        "hbm_bytes": memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        + memory.argument_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "smem_words": max(
            part.steps.size + part.units.size + part.tiles.size for part in schedule.parts
        ),
        "dots": dots(jax.make_jaxpr(attend)(*arguments).jaxpr),
    }


def dots(jaxpr) -> list[list[str]]:
    """[dtype of the operands, precision] of every product of a computation, kernels and branches included."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append([str(equation.invars[0].aval.dtype), str(equation.params["precision"])])
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else [parameter]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    found += dots(inner)
    return found


def compile_control(chip: str) -> dict:
    """Reads bfloat16 rows from an offset that nobody promised to be aligned, which Mosaic refuses."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    def kernel(start, x, out):
        out[...] = x[pl.ds(start[0], 16), :]

    def copy(start, x):
        return pl.pallas_call(
            kernel,
            in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), pl.BlockSpec(memory_space=pltpu.VMEM)],
            out_shape=jax.ShapeDtypeStruct((16, 128), jnp.bfloat16),
        )(start, x)

    x = jax.ShapeDtypeStruct((256, 128), jnp.bfloat16)
    tpu_compiler.compile_for(chip, copy, jax.ShapeDtypeStruct((1,), jnp.int32), x)
    return {}


def main(chip: str, cases: list[dict]) -> None:
    tpu_compiler.prepare_process(chip)
    for case in cases:
        start = time.perf_counter()
        try:
            result = compile_control(chip) if case.get("control") else compile_kernel(chip, case)
        except Exception as error:  # a case that does not compile is a result
            result = {"error": f"{type(error).__name__}: {error}"[:2000]}
        result["seconds"] = round(time.perf_counter() - start, 1)
        print(json.dumps({"case": case, **result}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
