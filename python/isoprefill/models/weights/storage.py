"""How the default device stores weights: on a CPU matrices are packed, and vectors are float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from isoprefill.models.config.parameters import PARAMETERS
from isoprefill.models.weights.packed_weights import PackedWeights, pack
from isoprefill.models.weights.params import Params


def as_stored(params: Params) -> Params:
    """Returns weights as the default device stores them; what is stored so already is not copied."""
    if jax.default_backend() != "cpu":
        return params

    def stored(field: str, array: Shaped[Array, "..."] | PackedWeights) -> Array | PackedWeights:
        if isinstance(array, PackedWeights):
            return array
        if PARAMETERS[field].is_matrix:
            return pack(np.asarray(array))
        return jax.device_put(array.astype(jnp.float32))

    fields = params._asdict() | params.layers._asdict()
    del fields["layers"]
    return Params.from_fields(
        {field: stored(field, array) for field, array in fields.items() if array is not None}
    )
