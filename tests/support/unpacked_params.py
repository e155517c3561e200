"""Weights as devices other than a CPU have them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isoprefill.models.weights.packed_weights import PackedWeights, unpack
from isoprefill.models.weights.params import Params


def unpacked(params: Params) -> Params:
    """Returns weights as plain arrays, as devices other than a CPU have them."""

    def plain(weights: Any) -> Any:
        array = unpack(weights) if isinstance(weights, PackedWeights) else np.asarray(weights)
        return jnp.asarray(array.view(jnp.bfloat16) if array.dtype == np.uint16 else array)

    return jax.tree.map(plain, params, is_leaf=lambda leaf: isinstance(leaf, PackedWeights))
