"""Results: log-probabilities from the model, and scores made of them. Importing this does not import jax."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float32, Float64, Int32

from isoprefill.models.config.classes import Classes
from isoprefill.modes import Algorithm, Isolation
from isoprefill.request.softmax import class_log_odds, class_probabilities

# Annotated as `Tokens` of a request are.
TokenLogprobs = Annotated[np.ndarray, Float64[np.ndarray, "tokens"]]
States = Annotated[np.ndarray, Float32[np.ndarray, "N E"]]

LargestLogprobs = Annotated[np.ndarray, Float64[np.ndarray, "tokens 2"]]
Logprobs = Annotated[np.ndarray, Float64[np.ndarray, "N *L"]]
Counts = Annotated[np.ndarray, Int32[np.ndarray, "N"]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RequestLogprobs:
    """Log-probabilities of one request's N items, in the order given, before any softmax.

    Attributes:
        logprobs: with labels [N, L] log P(label) over the full vocabulary, -inf after an item's last label;
            without, [N] log-likelihoods. Natural log. Of a classification model, which says no probabilities, the
            logits [N, C] of its classes.
        num_tokens: how many tokens' log-probabilities each likelihood sums; 1 for labels and classes.
        num_labels: how many of the L labels or C classes each item has; None for likelihoods.
        token_logprobs: for each item the log-probability of each of its tokens, if requested. With item_first,
            of the query's tokens after the item.
        algorithm: how they were computed.
        reason: why that way.
        cached_tokens: tokens of the query whose keys and values were still there from an earlier call.
        largest: for each item, in the place of each of its tokens, the largest log-probability of any token and that
            token (the first of several), if requested.
        classes: what the model tells apart, if it is a classification model; `classes.names` are the columns.
        num_reads: with an extraction token, how many rows of `logprobs` each item has, which then has R >= N rows;
            None: each has one.
        pooled_hidden_states: [N, E] what the head read: the hidden states after the final norm, if requested.
    """

    logprobs: Logprobs
    num_tokens: Counts
    num_labels: Counts | None
    token_logprobs: tuple[TokenLogprobs, ...] | None
    algorithm: Algorithm
    reason: str
    cached_tokens: int = 0
    largest: tuple[LargestLogprobs, ...] | None = None
    classes: Classes | None = None
    pooled_hidden_states: States | None = None
    num_reads: Counts | None = None

    def __post_init__(self) -> None:
        if self.logprobs.dtype != np.float64 or self.logprobs.ndim not in (1, 2):
            raise ValueError(
                f"logprobs must be float64 [items, labels] or [items], got {self.logprobs.dtype} "
                f"{list(self.logprobs.shape)}"
            )
        for name in ("num_tokens", "num_labels", "num_reads"):
            counts = getattr(self, name)
            if counts is not None and (counts.dtype != np.int32 or counts.ndim != 1):
                raise ValueError(
                    f"{name} must be int32 [items], got {counts.dtype} {list(counts.shape)}"
                )

    @classmethod
    def joined(cls, parts: Sequence["RequestLogprobs"]) -> "RequestLogprobs":
        """Returns what came back for the slices of one request, as if it had been whole."""
        first = parts[0]
        if len(parts) == 1:
            return first
        logprobs = [part.logprobs for part in parts]
        num_labels = token_logprobs = pooled = num_reads = None
        if first.num_reads is not None:
            num_reads = np.concatenate(
                [part.num_reads for part in parts if part.num_reads is not None]
            )
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
        if first.pooled_hidden_states is not None:
            pooled = np.concatenate(
                [
                    part.pooled_hidden_states
                    for part in parts
                    if part.pooled_hidden_states is not None
                ]
            )
        return dataclasses.replace(
            first,
            largest=largest,
            logprobs=np.concatenate(logprobs),
            num_tokens=np.concatenate([part.num_tokens for part in parts]),
            num_labels=num_labels,
            token_logprobs=token_logprobs,
            pooled_hidden_states=pooled,
            num_reads=num_reads,
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
        scores: as many as `logprobs`: with labels [N, L] probabilities, 0 after an item's last label; without, [N]
            log-likelihoods (natural log). Of a classification model [N, C] logits, or with apply_softmax probabilities.
        model: name of the model.
        isolation: "isolated", or "causal" if items saw each other.
        usage: token counts.
        num_label_tokens: with labels [N, L] how many tokens each is, one after another, 0 after an item's last label:
            `logprobs / num_label_tokens` is the mean of a label's tokens. None without labels.
    """

    scores: Float64[np.ndarray, "N *L"]
    model: str
    isolation: Isolation
    usage: Usage
    num_label_tokens: Int32[np.ndarray, "N L"] | None = None

    def best_first(self) -> list[int]:
        """Returns the indices of the items, best first: by their scores, or by those of their first labels.

        Of a classification model: by the probability of the class `Classes.relevant`, or of the first.
        """
        if self.num_reads is not None:
            raise ValueError("best_first is for one row of scores an item; these have several")
        if self.classes is not None:
            ranking = class_log_odds(self.logprobs, self.classes)
        else:
            ranking = self.scores if self.scores.ndim == 1 else self.scores[:, 0]
        order: list[int] = np.argsort(-ranking, kind="stable").tolist()
        return order

    @property
    def ranking_probabilities(self) -> Float64[np.ndarray, "N"]:
        """The probability by which `best_first` orders the items: of an item, of a first label, or of a class."""
        if self.classes is not None:
            return class_probabilities(self.logprobs, self.classes)[:, self.classes.relevant or 0]
        return np.exp(self.scores) if self.scores.ndim == 1 else self.scores[:, 0]

    def rows_of(self, index: int) -> slice:
        """Returns which rows of `scores`, `logprobs` and `pooled_hidden_states` are those of an item."""
        if self.num_reads is None:
            return slice(index, index + 1)
        begin = int(self.num_reads[:index].sum())
        return slice(begin, begin + int(self.num_reads[index]))

    @property
    def mean_logprobs(self) -> Float64[np.ndarray, "N"]:
        """Log-likelihood per token. Only for likelihoods.

        Raises:
            ValueError: if the items were scored by labels.
        """
        if self.logprobs.ndim != 1:
            kind = "labels" if self.classes is None else "classes"
            raise ValueError(f"mean_logprobs is for likelihoods; these items were scored by {kind}")
        return self.logprobs / self.num_tokens
