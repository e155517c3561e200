"""Plots the time of a request against its number of items, ours and PyTorch's."""

from bench_cpu.clock import Clock
from bench_cpu.instructions import Instructions
from bench_cpu.measurement import MeasurementError, Task, measure_apart
from bench_cpu.workloads import RandomRequest

QUERY, ITEM = 300, 20
WORKLOADS = [
    RandomRequest(f"{QUERY} + {number} x {ITEM}", QUERY, (ITEM,) * number)
    for number in (1, 3, 10, 30, 100, 300, 1000, 2000)
]
LONGEST = 75.0  # seconds: a curve ends before the first point that would take longer
CURVES = {
    "ours-auto": ("isoprefill", "C0"),
    "torch-serial": ("PyTorch, one by one", "C3"),
    "torch-batched": ("PyTorch, batched", "C1"),
    "torch-extend": ("PyTorch, prefill + extend", "C2"),
    "torch-dense": ("PyTorch, packed, dense mask", "C4"),
}


def draw_items(path: str, model: str, clock: Clock, instructions: Instructions | None) -> int:
    """Measures labels in float32 after a query of 300 tokens, items of 20, prints the times and draws them.

    Returns how many curves are missing because their measurement failed.
    """
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "isoprefill"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
    failed = 0
    for name, (label, color) in CURVES.items():
        task = Task(
            name,
            "float32",
            model,
            WORKLOADS,
            ["labels"],
            2,
            1e9,
            stop_after=LONGEST,
            clock=clock,
            instructions=instructions,
        )
        try:
            points = measure_apart(task)
        except MeasurementError:
            failed += 1
            continue
        numbers = [point.num_items for point in points]
        seconds = [min(point.seconds) for point in points]
        print(name, *(f"{n}: {s:.3f} s" for n, s in zip(numbers, seconds, strict=True)), flush=True)
        axes.plot(numbers, seconds, "o-", label=label, color=color, markersize=3)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=f"items of {ITEM} tokens, query of {QUERY}",
        ylabel="seconds",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    return failed
