"""Softmax over labels, and probabilities of classes, on the host.

On the host because the front-end process of a server must not touch the device (docs/adr/0001-host-softmax.md).
"""

import numpy as np
from jaxtyping import Float, Float64

from isoprefill.models.config.classes import Classes


def softmax(
    logprobs: Float[np.ndarray, "*batch L"], temperature: float = 1.0
) -> Float[np.ndarray, "*batch L"]:
    """exp(x / t) / sum(exp(x / t)) along the last axis, in float64; a row of nothing but -inf gives zeros.

    The largest is subtracted before the division, which may overflow: then it alone counts.
    """
    logprobs = np.asarray(logprobs, np.float64)
    # Not the methods max and sum, which are these and 5 us more.
    largest = np.maximum.reduce(logprobs, axis=-1, keepdims=True)
    below = logprobs - np.where(largest == -np.inf, 0.0, largest)
    if temperature != 1.0:
        with np.errstate(over="ignore"):
            below = below / temperature
    weights = np.exp(below)
    total = np.add.reduce(weights, axis=-1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)


def class_probabilities(
    logits: Float[np.ndarray, "N C"], classes: Classes, temperature: float = 1.0
) -> Float64[np.ndarray, "N C"]:
    """Returns the softmax of logits / t over the classes, or where they are independent the sigmoid of each.

    The sigmoid is also that of a single class, as sentence-transformers' CrossEncoder has it.
    """
    if not classes.use_sigmoid:
        return softmax(logits, temperature)
    logits = np.asarray(logits, np.float64)
    with np.errstate(over="ignore"):  # an infinite denominator gives 0
        return 1.0 / (1.0 + np.exp(-logits / temperature))


def class_log_odds(logits: Float[np.ndarray, "N C"], classes: Classes) -> Float64[np.ndarray, "N"]:
    """Returns numbers that order items as the probability of their class `relevant`, or of the first, does.

    Unlike probabilities they differ even where those round to 1.
    """
    logits = np.asarray(logits, np.float64)
    own = logits[:, classes.relevant or 0]
    if classes.use_sigmoid:
        return own
    return own - np.logaddexp.reduce(logits, axis=1)
