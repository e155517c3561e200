"""Finds weights that are NaN or infinite."""

import numpy as np

from isoprefill.models.packed_weights import PackedWeights
from isoprefill.models.parameters import PARAMETERS
from isoprefill.models.params import Params

_EXPONENT = np.uint16(0x7F80)  # of bfloat16; all ones in NaN and infinity


def first_not_finite(params: Params) -> str | None:
    """Returns the Hugging Face name of the first tensor with a NaN or infinite weight; None if all are finite."""
    fields = {**params.layers._asdict(), **params._asdict()}
    for field, parameter in PARAMETERS.items():
        weights = fields[field]
        if weights is None:
            continue
        array = np.asarray(weights.data if isinstance(weights, PackedWeights) else weights)
        for layer, part in enumerate(array if parameter.stacked else [array]):
            if not _all_finite(part):
                return parameter.huggingface.format(layer=layer)
    return None


def _all_finite(array: np.ndarray) -> bool:
    if array.dtype == np.uint16:
        return not np.any(array & _EXPONENT == _EXPONENT)
    return bool(np.all(np.isfinite(array.astype(np.float32, copy=False))))
