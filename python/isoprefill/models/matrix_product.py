"""The product of rows and weights that the decoder is made of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

import isoprefill_csrc
from isoprefill.bits import to_bits

_TARGET = "isoprefill_matrix_product"

jax.ffi.register_ffi_target(_TARGET, isoprefill_csrc.ffi_targets()[_TARGET], platform="cpu")


def multiply_transposed(x: Float[Array, "T N"], weight: Float[Array, "M N"]) -> Float[Array, "T M"]:
    """Multiplies x by the transposed weight, of the same dtype, and adds up in float32.

    On a CPU with AVX-512 by csrc/matrix_product.h, which is faster than XLA (docs/performance.md has numbers).
    """
    return by_cpp_or_xla(_by_cpp, _by_xla, x, weight)


def by_cpp_or_xla(
    by_cpp: Callable[..., Array], by_xla: Callable[..., Array], x: Float[Array, "T N"], *more: Array
) -> Array:
    """What multiplies the rows x, by C++ on a CPU whose instructions do, else by XLA: `by_…(x, *more)`."""
    if not multiplied_in_cpp(x.dtype.name, x.shape[1]):
        return by_xla(x, *more)
    result: Array = lax.platform_dependent(x, *more, cpu=by_cpp, default=by_xla)
    return result


def multiplied_in_cpp(dtype: str, inner: int) -> bool:
    """Whether this processor's instructions multiply such rows and weights in C++."""
    instructions = isoprefill_csrc.available_instructions()
    if dtype == "bfloat16":
        return "avx512_bf16" in instructions and inner % 2 == 0
    return dtype == "float32" and "avx512" in instructions


def _by_cpp(x: Float[Array, "T N"], weight: Float[Array, "M N"]) -> Float[Array, "T M"]:
    out = jax.ShapeDtypeStruct((x.shape[0], weight.shape[0]), jnp.float32)
    product: Float[Array, "T M"] = jax.ffi.ffi_call(_TARGET, out, vmap_method="sequential")(
        to_bits(x), to_bits(weight)
    )
    return product


def _by_xla(x: Float[Array, "T N"], weight: Float[Array, "M N"]) -> Float[Array, "T M"]:
    # HIGHEST: without it a TPU computes float32 products from one bfloat16 pass.
    return lax.dot_general(
        x,
        weight,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
