"""The requests that benchmarks on a CPU score, and how much work each of them is."""

import dataclasses
from typing import Literal

import numpy as np

from isoprefill.models.config.config import ModelConfig

Kind = Literal["labels", "likelihoods"]
KINDS: tuple[Kind, ...] = ("labels", "likelihoods")
LABELS = (100, 200)


@dataclasses.dataclass(frozen=True, slots=True)
class RandomRequest:
    """One query and items of random tokens.

    With `vectors` items come as the embeddings of their tokens, to who takes such, and the query is that of the request
    before.
    """

    name: str
    query_len: int
    item_lens: tuple[int, ...]
    small: bool = False  # a request takes milliseconds, so a measurement repeats it many times
    vectors: bool = False

    def first(self, count: int) -> "RandomRequest":
        """Returns the same query with the first `count` items; the name says so."""
        if count >= len(self.item_lens):
            return self
        return dataclasses.replace(
            self, name=f"{self.name}, first {count}", item_lens=self.item_lens[:count]
        )

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
        items = int((lens * self.query_len + lens * (lens + 1) // 2).sum())
        return self._query_pairs + items

    @property
    def _query_pairs(self) -> int:
        return self.query_len * (self.query_len + 1) // 2

    def gflop(self, model: ModelConfig, kind: Kind, *, warm: bool = False) -> float:
        """Returns the useful work: every token's projections once, visible pairs, and the head where it is read.

        If `warm`, the query has been computed before, and the work is that of the items.
        """
        lens = np.asarray(self.item_lens, np.int64)
        rows, pairs = self.query_len + int(lens.sum()), self.pairs
        if warm:
            rows, pairs = rows - self.query_len, pairs - self._query_pairs
        scored = int(lens.sum()) if kind == "likelihoods" else lens.size
        query_width = model.num_query_heads * model.head_dim
        layer = 2 * rows * layer_weights(model) + 4 * pairs * query_width
        head = 2 * scored * model.hidden_size * model.vocab_size
        return (model.num_layers * layer + head) / 1e9


def layer_weights(model: ModelConfig) -> int:
    """Returns how many weights the matrices of one layer have."""
    widths = 2 * (model.num_query_heads + model.num_kv_heads) * model.head_dim
    return model.hidden_size * (widths + 3 * model.intermediate_size)


def all_weights(model: ModelConfig) -> int:
    """Returns how many weights the matrices of the layers and the head have."""
    return model.num_layers * layer_weights(model) + model.hidden_size * model.vocab_size


WORKLOADS = {
    workload.name: workload
    for workload in (
        RandomRequest("tiny", 8, (1,) * 3, small=True),
        RandomRequest("small", 24, (4,) * 4, small=True),
        RandomRequest("page", 64, (8,) * 10, small=True),
        RandomRequest("demo", 256, (16,) * 32),
        RandomRequest("pr", 300, (20,) * 10),
        RandomRequest("mid", 1000, (20,) * 100),
        RandomRequest("W", 2000, (20,) * 500),
        RandomRequest("G", 2000, (20,) * 499 + (4000,)),
        RandomRequest("E", 2000, (1,) * 500, vectors=True),
    )
}
