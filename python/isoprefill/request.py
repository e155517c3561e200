"""The vocabulary of scoring: what is asked, and what comes back."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int32

from isoprefill.modes import Algorithm, Isolation

TextOrTokens = str | Sequence[int]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TokenRequest:
    """A query and its items as token ids; none of them is empty."""

    query: Int32[np.ndarray, "tokens"]
    items: tuple[Int32[np.ndarray, "tokens"], ...]

    def __post_init__(self) -> None:
        if not self.query.size:
            raise ValueError("query must hold at least 1 token, got 0")
        if not self.items:
            raise ValueError("items must hold at least 1 item, got 0")
        for index, item in enumerate(self.items):
            if not item.size:
                raise ValueError(f"items[{index}] must hold at least 1 token, got 0")

    @property
    def num_tokens(self) -> int:
        """Tokens of the query and of all items."""
        return self.query.size + sum(item.size for item in self.items)

    def items_first(self) -> tuple["TokenRequest", ...]:
        """Each item followed by the query, as a request of its own."""
        return tuple(TokenRequest(item, (self.query,)) for item in self.items)


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a call was given: the query once and every item. Nothing is ever decoded."""

    prompt_tokens: int
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ScoreResult:
    """Scores of N items, in the order in which they were given.

    Attributes:
        scores: with labels [N, L] probabilities; without, [N] log-likelihoods (natural log).
        logprobs: with labels [N, L] log P(label) over the full vocabulary; without, the same as `scores`.
        num_tokens: how many token log-probabilities were summed, for likelihoods; 1 for labels.
        model: name of the model.
        algorithm: how the scores were computed.
        isolation: "isolated", or "causal" if items saw each other.
        usage: token counts.
    """

    scores: Float[np.ndarray, "N *L"]
    logprobs: Float[np.ndarray, "N *L"]
    num_tokens: Int32[np.ndarray, "N"]
    model: str
    algorithm: Algorithm
    isolation: Isolation
    usage: Usage

    @property
    def mean_logprobs(self) -> Float[np.ndarray, "N"]:
        """Log-likelihood per token. Only for likelihoods.

        Raises:
            ValueError: if the items were scored by labels.
        """
        if self.logprobs.ndim != 1:
            raise ValueError("mean_logprobs is for likelihoods; these items were scored by labels")
        return self.logprobs / self.num_tokens
