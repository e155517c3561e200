"""What others publish of scoring with Qwen3-0.6B on one v6e chip, to read beside an estimate. Not our numbers."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """One figure.

    Attributes:
        workload: of ours that it is about, or None for another one.
        items_per_second: scored.
        source: who measured what.
    """

    workload: str | None
    items_per_second: float
    source: str


FIGURES = {
    ("qwen3-0.6b", "v6e"): (
        Published(None, 1655.6, "tpu-recipes, Qwen3-Reranker-0.6B: one-line pairs, batch 1,024"),
        Published(None, 707.6, "tpu-recipes, Qwen3-Reranker-0.6B: one-line pairs, batch 8"),
        Published("W", 518, "a fork of sglang-jax"),
        Published("W", 105, "a fork of sglang-jax"),
        Published("W", 52, "a fork of sglang-jax"),
    )
}
