"""Log-likelihoods of continuations whose contexts begin alike: what several contexts share is computed once.

Contexts are scored in the order of their tokens. So of all contexts before it, the one just before a context has most
in common with it, and the prefix cache still holds that one: a few-shot prefix is computed for the first of its
questions only, and a question once for all of its answers. Contexts that share little are packed into common prefills
instead.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from isoprefill.execution.algorithms import REPEATED_QUERY
from isoprefill.execution.engine import ScoringEngine
from isoprefill.integers import common_prefix
from isoprefill.modes import Algorithm
from isoprefill.request.labels import LabelSets
from isoprefill.request.options import ScoreOptions
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest, Tokens

# Tokens of requests that are handed over together, so that what is in memory is bounded and progress is seen.
TOKENS_AT_ONCE = 65_536

_LIKELIHOOD = ScoreOptions(return_token_logprobs=True, return_largest=True)


class Continuation(NamedTuple):
    """What is scored: tokens after other tokens. Neither is empty."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]


class Likelihood(NamedTuple):
    """Of a continuation: log P(tokens | context), natural, and whether each token was the likeliest in its place."""

    logprob: float
    is_greedy: bool


def likelihoods(
    engine: ScoringEngine,
    continuations: Sequence[Continuation],
    on_progress: Callable[[int], None] = lambda number: None,
) -> list[Likelihood]:
    """Returns the likelihood of each continuation.

    Args:
        engine: of the model.
        continuations: in any order; equal ones are scored once. Context and tokens together may have one token more
            than the model has positions, because nothing is predicted after the last.
        on_progress: called with numbers of continuations that were done.

    Raises:
        RequestError: a continuation is too long for the model, or a token is none of its.
    """
    by_context: dict[tuple[int, ...], list[Continuation]] = {}
    found: dict[Continuation, Likelihood] = {}
    for one in dict.fromkeys(continuations):
        if len(one.context) + len(one.tokens) > engine.model.config.max_positions:
            found[one] = _likelihood_to_the_end(engine, one)
            on_progress(1)
        else:
            by_context.setdefault(one.context, []).append(one)
    contexts = sorted(by_context)
    arrays = [np.asarray(context, np.int32) for context in contexts]
    for algorithm, indices in _batches(arrays, [by_context[context] for context in contexts]):
        groups = [by_context[contexts[index]] for index in indices]
        requests = [
            TokenRequest(
                arrays[index], tuple(np.asarray(one.tokens, np.int32) for one in group), _LIKELIHOOD
            )
            for index, group in zip(indices, groups, strict=True)
        ]
        results = engine.score_batch(requests, algorithm=algorithm)
        for group, result in zip(groups, results, strict=True):
            found.update(zip(group, _read(group, result), strict=True))
            on_progress(len(group))
    return [found[one] for one in continuations]


def _batches(
    contexts: Sequence[Tokens], groups: Sequence[Sequence[Continuation]]
) -> Iterator[tuple[Algorithm, list[int]]]:
    """Cuts sorted contexts into batches of a bounded number of tokens, each with its algorithm.

    What is computed over a cached prefix comes in the order of the contexts.
    """
    common = [common_prefix(*pair) for pair in itertools.pairwise(contexts)]
    shares = np.maximum([0, *common], [*common, 0])[: len(contexts)] >= REPEATED_QUERY
    ways: tuple[tuple[Algorithm, bool], ...] = (("packed", False), ("packed_extend", True))
    for algorithm, shared in ways:
        batch: list[int] = []
        tokens = 0
        for index in np.flatnonzero(shares == shared).tolist():
            size = contexts[index].size + sum(len(one.tokens) for one in groups[index])
            if batch and tokens + size > TOKENS_AT_ONCE:
                yield algorithm, batch
                batch, tokens = [], 0
            batch.append(index)
            tokens += size
        if batch:
            yield algorithm, batch


def _read(group: Sequence[Continuation], result: RequestLogprobs) -> list[Likelihood]:
    assert result.largest is not None
    return [
        Likelihood(float(logprob), bool((largest[:, 1] == one.tokens).all()))
        for one, logprob, largest in zip(group, result.logprobs, result.largest, strict=True)
    ]


def _likelihood_to_the_end(engine: ScoringEngine, one: Continuation) -> Likelihood:
    """The likelihood of a continuation whose last token has no position: it is read as a label of what precedes it."""
    *before, last = one.context + one.tokens
    tokens = np.asarray(before, np.int32)
    number = len(one.tokens) - 1  # of the continuation's tokens that have positions
    border = len(before) - max(1, number)
    options = dataclasses.replace(_LIKELIHOOD, labels=LabelSets.shared([last]))
    (result,) = engine.score_batch([TokenRequest(tokens[:border], (tokens[border:],), options)])
    assert result.token_logprobs is not None
    assert result.largest is not None
    logprob = float(result.logprobs[0, 0])
    is_greedy = True
    if number:
        logprob += float(result.token_logprobs[0].sum())
        is_greedy = bool((result.largest[0][:, 1] == tokens[border:]).all())
    return Likelihood(logprob, is_greedy and _likeliest(engine, tokens) == last)


def _likeliest(engine: ScoringEngine, tokens: Tokens) -> int:
    """The likeliest token after others, of which there are as many as the model has positions."""
    vocabulary = LabelSets.shared(range(engine.model.config.vocab_size))
    request = TokenRequest(tokens[:-1], (tokens[-1:],), ScoreOptions(labels=vocabulary))
    (result,) = engine.score_batch([request])
    return int(result.logprobs[0].argmax())
