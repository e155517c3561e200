"""The requests that benchmarks on a CPU score, and how much work each of them is."""

import dataclasses
from typing import Literal

import numpy as np

from isoprefill.models.config import ModelConfig

Kind = Literal["labels", "likelihoods"]
KINDS: tuple[Kind, ...] = ("labels", "likelihoods")
LABELS = (100, 200)


@dataclasses.dataclass(frozen=True, slots=True)
class RandomRequest:
    """One query and items of random tokens."""

    name: str
    query_len: int
    item_lens: tuple[int, ...]

    def first(self, count: int) -> "RandomRequest":
        """Returns the same query with the first `count` items; the name says so."""
        if count >= len(self.item_lens):
            return self
        return RandomRequest(f"{self.name}, first {count}", self.query_len, self.item_lens[:count])

    def tokens(self, vocab_size: int) -> tuple[list[int], list[list[int]]]:
        """Returns the query and the items, the same in every process."""
        rng = np.random.default_rng(0)
        lowest = vocab_size // 100  # below are control tokens
        query = rng.integers(lowest, vocab_size, self.query_len).tolist()
        items = [rng.integers(lowest, vocab_size, length).tolist() for length in self.item_lens]
        return query, items

    @property
    def pairs(self) -> int:
        """Pairs of a token and one that it sees."""
        lens = np.asarray(self.item_lens, np.int64)
        own = self.query_len * (self.query_len + 1) // 2
        return own + int((lens * self.query_len + lens * (lens + 1) // 2).sum())

    def gflop(self, model: ModelConfig, kind: Kind) -> float:
        """Returns the useful work: every token's projections once, visible pairs, and the head where it is read."""
        lens = np.asarray(self.item_lens, np.int64)
        rows = self.query_len + int(lens.sum())
        scored = int(lens.sum()) if kind == "likelihoods" else lens.size
        query_width = model.num_query_heads * model.head_dim
        widths = 2 * query_width + 2 * model.num_kv_heads * model.head_dim
        widths += 3 * model.intermediate_size
        layer = 2 * rows * model.hidden_size * widths + 4 * self.pairs * query_width
        head = 2 * scored * model.hidden_size * model.vocab_size
        return (model.num_layers * layer + head) / 1e9


WORKLOADS = {
    workload.name: workload
    for workload in (
        RandomRequest("demo", 256, (16,) * 32),
        RandomRequest("pr", 300, (20,) * 10),
        RandomRequest("mid", 1000, (20,) * 100),
        RandomRequest("W", 2000, (20,) * 500),
        RandomRequest("G", 2000, (20,) * 499 + (4000,)),
    )
}
