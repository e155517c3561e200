"""The product of rows and weights that the decoder is made of, in C++ or by XLA."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

import isoprefill_csrc
from isoprefill.bits import to_bits

PRODUCT, LOGPROBS = "isoprefill_matrix_product", "isoprefill_token_logprobs"

for _target in (PRODUCT, LOGPROBS):
    jax.ffi.register_ffi_target(_target, isoprefill_csrc.ffi_targets()[_target], platform="cpu")


def multiply_transposed(x: Float[Array, "T N"], weight: Float[Array, "M N"]) -> Float[Array, "T M"]:
    """Multiplies x by the transposed weight, of the same dtype, and adds up in float32.

    On a CPU with AVX-512 by csrc/matrix_product.h, which is faster than XLA (docs/performance.md has numbers).
    """
    return by_cpp_or_xla(PRODUCT, (x.shape[0], weight.shape[0]), _by_xla, x, weight)


def by_cpp_or_xla(
    target: str, shape: tuple[int, ...], by_xla: Callable[..., Array], *operands: Array
) -> Array:
    """Multiplies the rows operands[0], in C++ on a CPU whose instructions do, else by XLA.

    Args:
        target: what computes it in C++, PRODUCT or LOGPROBS.
        shape: of the result, which is float32.
        by_xla: computes the same from the operands.
        *operands: rows [T, N] first.
    """
    if not multiplied_in_cpp(operands[0].dtype.name, operands[0].shape[1]):
        return by_xla(*operands)
    result: Array = lax.platform_dependent(
        *operands, cpu=lambda *operands: by_cpp(target, shape, *operands), default=by_xla
    )
    return result


def multiplied_in_cpp(dtype: str, inner: int) -> bool:
    """Returns whether this processor's instructions multiply such rows and weights in C++."""
    instructions = isoprefill_csrc.available_instructions()
    if dtype == "bfloat16":
        return "avx512_bf16" in instructions and inner % 2 == 0
    return dtype == "float32" and "avx512" in instructions


def by_cpp(target: str, shape: tuple[int, ...], *operands: Array) -> Array:
    """Calls C++, which takes bfloat16 as its bits."""
    out = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = jax.ffi.ffi_call(target, out, vmap_method="sequential")
    result: Array = call(*map(to_bits, operands))
    return result


def _by_xla(x: Float[Array, "T N"], weight: Float[Array, "M N"]) -> Float[Array, "T M"]:
    # HIGHEST: without it a TPU computes float32 products from one bfloat16 pass.
    return lax.dot_general(
        x,
        weight,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
