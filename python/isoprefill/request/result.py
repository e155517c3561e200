"""Results: log-probabilities from the model, and scores made of them. Importing this does not import jax."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float64, Int32

from isoprefill.modes import Algorithm, Isolation

# Annotated as `Tokens` of a request are.
TokenLogprobs = Annotated[np.ndarray, Float64[np.ndarray, "tokens"]]

LargestLogprobs = Annotated[np.ndarray, Float64[np.ndarray, "tokens 2"]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RequestLogprobs:
    """Log-probabilities of one request's N items, in the order given, before any softmax.

    Attributes:
        logprobs: with labels [N, L] log P(label) over the full vocabulary, -inf after an item's last label;
            without, [N] log-likelihoods. Natural log.
        num_tokens: how many tokens' log-probabilities each likelihood sums; 1 for labels.
        num_labels: how many of the L labels each item has; None without labels.
        token_logprobs: for each item the log-probability of each of its tokens, if requested. With item_first,
            of the query's tokens after the item.
        algorithm: how they were computed.
        reason: why that way.
        cached_tokens: tokens of the query whose keys and values were still there from an earlier call.
        largest: for each item, in the place of each of its tokens, the largest log-probability of any token and that
            token (the first of several), if requested.
    """

    logprobs: Float64[np.ndarray, "N *L"]
    num_tokens: Int32[np.ndarray, "N"]
    num_labels: Int32[np.ndarray, "N"] | None
    token_logprobs: tuple[TokenLogprobs, ...] | None
    algorithm: Algorithm
    reason: str
    cached_tokens: int = 0
    largest: tuple[LargestLogprobs, ...] | None = None

    @classmethod
    def joined(cls, parts: Sequence["RequestLogprobs"]) -> "RequestLogprobs":
        """Returns what came back for the slices of one request, as if it had been whole."""
        first = parts[0]
        if len(parts) == 1:
            return first
        logprobs = [part.logprobs for part in parts]
        num_labels = token_logprobs = None
        if first.num_labels is not None:
            num_labels = np.concatenate(
                [part.num_labels for part in parts if part.num_labels is not None]
            )
            width = max(part.shape[1] for part in logprobs)
            logprobs = [
                np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-np.inf)
                for part in logprobs
            ]
        if first.token_logprobs is not None:
            token_logprobs = tuple(one for part in parts for one in part.token_logprobs or ())
        largest = None
        if first.largest is not None:
            largest = tuple(one for part in parts for one in part.largest or ())
        return dataclasses.replace(
            first,
            largest=largest,
            logprobs=np.concatenate(logprobs),
            num_tokens=np.concatenate([part.num_tokens for part in parts]),
            num_labels=num_labels,
            token_logprobs=token_logprobs,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a call was given: the query once and every item. Nothing is ever decoded."""

    prompt_tokens: int
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclasses.dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ScoreResult(RequestLogprobs):
    """Scores of N items, in the order in which they were given, with the log-probabilities that they are made of.

    Attributes:
        scores: with labels [N, L] probabilities, 0 after an item's last label; without, [N] log-likelihoods
            (natural log).
        model: name of the model.
        isolation: "isolated", or "causal" if items saw each other.
        usage: token counts.
    """

    scores: Float64[np.ndarray, "N *L"]
    model: str
    isolation: Isolation
    usage: Usage

    def best_first(self) -> list[int]:
        """Returns the indices of the items, best first: by their scores, or by those of their first labels."""
        ranking = self.scores if self.scores.ndim == 1 else self.scores[:, 0]
        order: list[int] = np.argsort(-ranking, kind="stable").tolist()
        return order

    @property
    def mean_logprobs(self) -> Float64[np.ndarray, "N"]:
        """Log-likelihood per token. Only for likelihoods.

        Raises:
            ValueError: if the items were scored by labels.
        """
        if self.logprobs.ndim != 1:
            raise ValueError("mean_logprobs is for likelihoods; these items were scored by labels")
        return self.logprobs / self.num_tokens
