"""Turns log-probabilities into scores, on the host in float64. Importing this does not import jax."""

import dataclasses

import numpy as np

from isoprefill.request.result import RequestLogprobs, ScoreResult, Usage
from isoprefill.request.softmax import class_probabilities, softmax
from isoprefill.request.token_request import TokenRequest


def score_result(request: TokenRequest, logprobs: RequestLogprobs, *, model: str) -> ScoreResult:
    """Returns the scores of a request.

    Args:
        request: what was scored, and how.
        logprobs: what the model said.
        model: its name.
    """
    options = request.options
    scores = logprobs.logprobs
    if logprobs.classes is not None:
        if options.apply_softmax:
            scores = class_probabilities(scores, logprobs.classes, options.temperature or 1.0)
    elif options.apply_softmax:
        scores = softmax(scores, options.temperature or 1.0)
    elif options.labels is not None:
        scores = np.exp(scores)
    fields = {field.name: getattr(logprobs, field.name) for field in dataclasses.fields(logprobs)}
    return ScoreResult(
        **fields,
        scores=scores,
        model=model,
        isolation=options.isolation,
        usage=Usage(prompt_tokens=request.num_tokens),
        num_label_tokens=None
        if options.labels is None
        else options.labels.num_tokens(len(request.items)),
    )
