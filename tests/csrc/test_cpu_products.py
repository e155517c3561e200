"""Matrix products and the head in C++, as the decoder calls them on a CPU.

If one of these fails, every score on a CPU is wrong, or what is handed to C++ inside jit is read out of bounds. The
oracle is NumPy in float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isoprefill_csrc
from isoprefill.models import matrix_product

BFLOAT16 = pytest.param(
    "bfloat16",
    marks=pytest.mark.skipif(
        "avx512_bf16" not in isoprefill_csrc.available_instructions(),
        reason="this processor does not multiply bfloat16",
    ),
)
# Rows, columns, inner: whole tiles, parts of them, one of everything that may be one.
SIZES = [(1, 1, 2), (6, 64, 32), (385, 65, 66), (50, 200, 576)]


def random_operands(rows, columns, inner, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((rows, inner), np.float32), dtype)
    return x, jnp.asarray(rng.standard_normal((columns, inner), np.float32), dtype)


def exact_product(x, weight):
    return np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T


@pytest.mark.parametrize("dtype", ["float32", BFLOAT16])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products_equal_the_oracle(sizes, dtype):
    x, weight = random_operands(*sizes, dtype)
    in_cpp = functools.partial(
        matrix_product.by_cpp, matrix_product.PRODUCT, (x.shape[0], weight.shape[0])
    )
    for multiply in (in_cpp, jax.jit(in_cpp)):
        product = multiply(x, weight)
        assert product.dtype == jnp.float32
        np.testing.assert_allclose(product, exact_product(x, weight), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", BFLOAT16])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("asked", [1, 70])
def test_logprobs_equal_the_oracle(sizes, dtype, asked):
    x, weight = random_operands(*sizes, dtype)
    tokens = np.random.default_rng(1).integers(0, sizes[1], (sizes[0], asked)).astype(np.int32)
    logits = exact_product(x, weight)
    largest = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - largest).sum(axis=1, keepdims=True)) + largest
    expected = np.take_along_axis(logits, tokens, axis=1) - total
    in_cpp = functools.partial(matrix_product.by_cpp, matrix_product.LOGPROBS, tokens.shape)
    np.testing.assert_allclose(jax.jit(in_cpp)(x, weight, tokens), expected, atol=1e-4)


def test_this_processor_uses_them():
    """Else the decoder is right and slow, and nobody notices."""
    instructions = isoprefill_csrc.available_instructions()
    x, weight = random_operands(4, 8, 16, "float32")
    program = jax.jit(matrix_product.multiply_transposed).lower(x, weight).compile().as_text()
    assert ("isoprefill_matrix_product" in program) == ("avx512" in instructions)
    assert not matrix_product.multiplied_in_cpp("bfloat16", 33)
    odd = random_operands(4, 8, 33, "bfloat16")
    np.testing.assert_allclose(
        matrix_product.multiply_transposed(*odd), exact_product(*odd), atol=1e-4
    )


def shape(*sizes, dtype=np.float32):
    return np.zeros(sizes, dtype)  # of NumPy: nothing may touch a device before the tests run


TOKENS = shape(3, 2, dtype=np.int32)
REFUSED = {
    "w has shape [5, 6]; it must be [M = 5, N = 4]": ("matrix_product", shape(3, 5), shape(3, 4), shape(5, 6)),
    "x has shape [4]; it must be [T, N]": ("matrix_product", shape(3, 5), shape(4), shape(5, 4)),
    "x and w must all be": ("matrix_product", shape(3, 5), shape(3, 4), shape(5, 4, dtype=np.uint16)),
    "inner is 3; for bfloat16 it must be even": (
        "matrix_product", shape(3, 5), shape(3, 3, dtype=np.uint16), shape(5, 3, dtype=np.uint16),
    ),
    "out has shape [3, 1]; it must be [T = 3, K = 2]": (
        "token_logprobs", shape(3, 1), shape(3, 4), shape(5, 4), TOKENS,
    ),
    "x and w must all be float32 or": (
        "token_logprobs", shape(3, 2), shape(3, 4), shape(5, 4, dtype=np.uint16), TOKENS,
    ),
    "token_ids of row 0 hold 9": ("token_logprobs", shape(3, 2), shape(3, 4), shape(5, 4), TOKENS + 9),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message):
    """Nothing is read out of bounds, whatever a program hands over."""
    target, out, *operands = REFUSED[message]
    call = jax.ffi.ffi_call(f"isoprefill_{target}", jax.ShapeDtypeStruct(out.shape, out.dtype))
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.block_until_ready(jax.jit(call)(*operands))
    assert message in str(error.value)
