"""The TPU interpreter as the kernel's own tests run it."""

from typing import Any

from jax.experimental.pallas import tpu as pltpu


def checking(**changes: Any) -> pltpu.InterpretParams:
    """Looks for races, fills memory that was not written with NaN, and raises on reads out of bounds."""
    return pltpu.InterpretParams(
        detect_races=True,
        uninitialized_memory="nan",
        out_of_bounds_reads="raise",
        dma_execution_mode="on_wait",
        **changes,
    )
