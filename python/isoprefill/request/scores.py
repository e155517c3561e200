"""From log-probabilities to scores, on the host in float64. Importing this does not import jax."""

import math

import numpy as np

from isoprefill.request.errors import RequestError
from isoprefill.request.result import RequestLogprobs, ScoreResult, Usage
from isoprefill.request.softmax import softmax
from isoprefill.request.token_request import TokenRequest


def check_score_options(
    *, has_labels: bool, apply_softmax: bool, temperature: float | None
) -> None:
    """Raises RequestError unless the options go together; cheap, so that it can come before any work."""
    if apply_softmax and not has_labels:
        raise RequestError(
            "apply_softmax needs label_token_ids",
            code="missing_label_token_ids",
            param="label_token_ids",
        )
    if temperature is None:
        return
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise RequestError(
            f"temperature must be a number, got {type(temperature).__name__}",
            code="invalid_temperature",
            param="temperature",
        )
    if not (math.isfinite(temperature) and temperature > 0):
        raise RequestError(
            f"temperature must be finite and above 0, got {temperature}",
            code="invalid_temperature",
            param="temperature",
        )
    if not apply_softmax:
        raise RequestError(
            "temperature needs apply_softmax", code="invalid_temperature", param="temperature"
        )


def score_result(
    request: TokenRequest,
    logprobs: RequestLogprobs,
    *,
    model: str,
    apply_softmax: bool = False,
    temperature: float | None = None,
) -> ScoreResult:
    """The scores of a request.

    Args:
        request: what was asked.
        logprobs: what the model said.
        model: its name.
        apply_softmax: labels only: normalise over the item's labels instead of the full vocabulary.
        temperature: with apply_softmax, divides the log-probabilities first; None is 1.

    Raises:
        RequestError: if the options do not go together; see `check_score_options`.
    """
    has_labels = request.labels is not None
    check_score_options(has_labels=has_labels, apply_softmax=apply_softmax, temperature=temperature)
    scores = logprobs.logprobs
    if has_labels:
        scores = softmax(scores, temperature or 1.0) if apply_softmax else np.exp(scores)
    return ScoreResult(
        scores=scores,
        logprobs=logprobs.logprobs,
        num_tokens=logprobs.num_tokens,
        num_labels=logprobs.num_labels,
        token_logprobs=logprobs.token_logprobs,
        model=model,
        algorithm=logprobs.algorithm,
        reason=logprobs.reason,
        isolation=request.isolation,
        cached_tokens=logprobs.cached_tokens,
        usage=Usage(prompt_tokens=request.num_tokens),
    )
