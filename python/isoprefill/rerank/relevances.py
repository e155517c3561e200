"""How relevant documents are, and their order."""

import dataclasses

import numpy as np
from jaxtyping import Float64


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Relevances:
    """Of all documents of a job.

    Attributes:
        scores: between 0 and 1, 0 where there is nothing in a document.
        raw: with labels log P(yes) - log P(no), or log P(yes) if there is no other; with classes the log-odds of the
            relevant one; else the mean log-probability of the query's tokens. Natural logarithms; -inf where there is
            nothing in a document.
    """

    scores: Float64[np.ndarray, "N"]
    raw: Float64[np.ndarray, "N"]

    def best_first(self) -> list[int]:
        """Returns the indices of the documents, most relevant first."""
        # Relevances near 0 and 1 are alike before their raw scores are.
        order: list[int] = np.lexsort((-self.raw, -self.scores)).tolist()
        return order
