"""Functions that JAX must not differentiate."""

from collections.abc import Callable
from typing import Any

import jax


def inference_only(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Returns the function with an error of one line where JAX would take a derivative of it.

    Without it the error comes from inside JAX and names an operation that the caller does not know.

    Args:
        function: takes and returns arrays.
        name: what the error calls it.
    """
    refusing = jax.custom_jvp(function)

    @refusing.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        raise ValueError(
            f"multi_item_attention is for inference: {name} has no gradient; backend='dense' has one"
        )

    return refusing
