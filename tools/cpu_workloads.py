"""The requests that speed on a CPU is judged by, and the work that each of them is."""

import dataclasses
from typing import Literal

import numpy as np

Kind = Literal["labels", "likelihoods"]
KINDS: tuple[Kind, ...] = ("labels", "likelihoods")
LABELS = (100, 200)


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """What of a model decides the work."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    query_width: int  # query heads x head_dim
    kv_width: int
    vocab_size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """One query and items of random tokens."""

    name: str
    query_len: int
    item_lens: tuple[int, ...]

    def first(self, count: int) -> "Workload":
        """The same query with the first `count` items; the name says so."""
        if count >= len(self.item_lens):
            return self
        return Workload(f"{self.name}, first {count}", self.query_len, self.item_lens[:count])

    def tokens(self, vocab_size: int) -> tuple[list[int], list[list[int]]]:
        """The query and the items, the same in every process."""
        rng = np.random.default_rng(0)
        lowest = vocab_size // 100  # below are control tokens
        query = rng.integers(lowest, vocab_size, self.query_len).tolist()
        items = [rng.integers(lowest, vocab_size, length).tolist() for length in self.item_lens]
        return query, items

    def gflop(self, sizes: Sizes, kind: Kind) -> float:
        """The useful work: every token's projections once, pairs that see each other, the head where it is read."""
        lens = np.asarray(self.item_lens, np.int64)
        rows = self.query_len + int(lens.sum())
        pairs = self.query_len * (self.query_len + 1) // 2
        pairs += int((lens * self.query_len + lens * (lens + 1) // 2).sum())
        scored = int(lens.sum()) if kind == "likelihoods" else lens.size
        widths = 2 * sizes.query_width + 2 * sizes.kv_width + 3 * sizes.intermediate_size
        layer = 2 * rows * sizes.hidden_size * widths + 4 * pairs * sizes.query_width
        head = 2 * scored * sizes.hidden_size * sizes.vocab_size
        return (sizes.num_layers * layer + head) / 1e9


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("demo", 256, (16,) * 32),
        Workload("pr", 300, (20,) * 10),
        Workload("mid", 1000, (20,) * 100),
        Workload("W", 2000, (20,) * 500),
        Workload("G", 2000, (20,) * 499 + (4000,)),
    )
}
