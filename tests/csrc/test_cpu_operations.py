"""The decoder's operations in C++, as the decoder calls them on a CPU inside jit.

If one of these fails, every score on a CPU is wrong, or what is handed to C++ is read out of bounds. The oracle is
NumPy in float64.
"""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isoprefill_csrc
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.experts import Experts
from isoprefill.models.decoder import cpu_operations, mixture
from isoprefill.models.decoder.decoder import GATES
from isoprefill.models.weights.packed_weights import (
    PackedWeights,
    in_parts,
    pack,
    packed_shape,
    unpack,
)
from isoprefill.models.weights.params import LayerParams

# Rows, columns, inner: whole tiles, parts of them, one of everything that may be one.
SIZES = [(1, 1, 1), (6, 64, 32), (385, 65, 66), (50, 200, 576)]
DTYPES = ["float32", "bfloat16"]


def random_operands(rows, columns, inner, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((rows, inner), np.float32), dtype)
    return x, np.asarray(jnp.asarray(rng.standard_normal((columns, inner), np.float32), dtype))


def exact_product(x, weight):
    return np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_weights_come_back_as_they_were(sizes, dtype):
    _, weight = random_operands(*sizes, dtype)
    packed = pack(weight)
    assert (packed.columns, packed.inner) == weight.shape
    assert packed.data.shape == packed_shape(weight.shape)
    bits = weight.view(np.uint16) if dtype == "bfloat16" else weight
    np.testing.assert_array_equal(unpack(packed), bits)
    layers = pack(np.stack([weight, weight * 2]))
    np.testing.assert_array_equal(layers.data[0], packed.data)


def shortened(weight, parts):
    """Returns float32 rounded to what one or two bfloat16 hold."""
    return (weight.view(np.uint32) & {1: 0xFFFF0000, 2: 0xFFFFFF00}[parts]).view(np.float32)


def packed_in_numpy(weight):
    packed = pack(weight)
    return PackedWeights(np.array(packed.data), packed.columns, packed.inner)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_float32_in_parts_gives_the_same(sizes, parts, monkeypatch):
    """Products, embeddings and the head; what was packed comes back. Else a bfloat16 checkpoint in float32 is wrong."""
    monkeypatch.setattr(isoprefill_csrc, "multiplies_parts", lambda: True)
    x, weight = random_operands(*sizes, "float32")
    weight = shortened(weight, parts)
    whole = pack(weight)
    (split,) = in_parts([packed_in_numpy(weight)])
    assert (split.parts, split.dtype) == (parts, jnp.float32)
    assert split.data.nbytes * 2 == whole.data.nbytes * parts
    np.testing.assert_array_equal(unpack(split), weight)
    (layers,) = in_parts([packed_in_numpy(np.stack([weight * 0, weight]))])
    split = PackedWeights(jnp.asarray(split.data), *weight.shape, parts)
    run = jax.jit(functools.partial(cpu_operations.projection, layer=1))
    np.testing.assert_allclose(run(x, layers), exact_product(x, weight), atol=2e-4)
    count = jnp.asarray(sizes[0], jnp.int32)
    tokens = np.arange(sizes[0], dtype=np.int32) % sizes[1]
    np.testing.assert_array_equal(
        cpu_operations.embed(split, tokens, count), cpu_operations.embed(whole, tokens, count)
    )
    rows, asked = np.arange(sizes[0], dtype=np.int32), tokens[:, None]
    np.testing.assert_allclose(
        cpu_operations.token_logprobs(x, split, rows, count, asked),
        cpu_operations.token_logprobs(x, whole, rows, count, asked),
        atol=2e-4,
    )


@pytest.mark.parametrize("tiles", [False, True])
def test_matrices_are_split_together_where_it_is_exact(tiles, monkeypatch):
    """Gate and up are multiplied together. Two parts gain nothing without tiles; a third would be lost."""
    monkeypatch.setattr(isoprefill_csrc, "multiplies_parts", lambda: tiles)
    _, weight = random_operands(6, 64, 32, "float32")
    one, two = shortened(weight, 1), shortened(weight, 2)
    two[3, 5] = 1 + 2**-10  # what one part cannot hold
    for matrices, expected in (
        ([one], 1),
        ([one, one], 1),
        ([one, two], 2 if tiles else 0),
        ([two, one], 2 if tiles else 0),
        ([one, weight], 0),
        ([one * np.float32(np.inf)], 0),
    ):
        split = in_parts([packed_in_numpy(matrix) for matrix in matrices])
        assert [weights.parts for weights in split] == [expected] * len(matrices)
        for weights, matrix in zip(split, matrices, strict=True):
            np.testing.assert_array_equal(unpack(weights), matrix)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_projections_equal_the_oracle(sizes, dtype):
    """Of the layer asked for, with bias and residual; rows that do not matter are zeros."""
    x, weight = random_operands(*sizes, dtype)
    weights = pack(np.stack([weight * 0, weight]))
    rng = np.random.default_rng(1)
    bias = jnp.asarray(rng.standard_normal((2, sizes[1]), np.float32))
    residual = jnp.asarray(rng.standard_normal((sizes[0], sizes[1]), np.float32))
    count = max(1, sizes[0] - 5)
    run = jax.jit(functools.partial(cpu_operations.projection, layer=1))
    out = run(x, weights, bias, num_rows=count, residual=residual)
    assert out.dtype == jnp.float32
    expected = exact_product(x, weight) + np.asarray(bias[1]) + np.asarray(residual)
    np.testing.assert_allclose(out[:count], expected[:count], atol=2e-4)
    assert not np.any(out[count:])
    np.testing.assert_allclose(run(x, weights), exact_product(x, weight), atol=2e-4)


def exact_mixture(x, router, gate, up, down, chosen, normalised):
    """One row at a time, in float64; of equal shares the first."""
    results = []
    for row in np.asarray(x, np.float64):
        shares = np.exp((router * row).sum(axis=1))  # the same for equal weights
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:chosen]
        total = shares[best].sum() if normalised else 1.0
        result = 0.0
        for expert in best:
            gated = gate[expert] @ row
            gated = gated / (1 + np.exp(-gated)) * (up[expert] @ row)
            result = result + shares[expert] / total * (down[expert] @ gated)
        results.append(result)
    return np.asarray(results)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_mixtures_of_experts_equal_the_oracle(tied, normalised):
    """In C++ and by XLA, of the layer asked for; the first of experts that the router cannot tell apart."""
    rng = np.random.default_rng(3)
    experts = Experts(number=5, chosen=2, width=35, normalised=normalised)
    shapes = {"router": (5, 66), "gate": (5, 35, 66), "up": (5, 35, 66), "down": (5, 66, 35)}
    weights = {name: rng.standard_normal(shape) / 6 for name, shape in shapes.items()}
    if tied:
        weights["router"][[1, 4]] = weights["router"][[0, 3]]
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    stream = rng.standard_normal((70, 66), np.float32)
    norm = 1 + rng.standard_normal(66, np.float32) / 4
    config = ModelConfig("qwen3_moe", 9, 66, 35, 2, 1, 1, 66, 1e-5, 1e4, 9, experts=experts)
    packed = {name: pack(np.stack([values * 0, values])) for name, values in weights.items()}
    layers = LayerParams(
        *[packed["router"]] * 4,
        feed_forward_norm=jnp.asarray(np.stack([norm, norm])),
        router=packed["router"],
        **{f"expert_{name}": packed[name] for name in ("gate", "up", "down")},
    )
    run = functools.partial(cpu_operations.experts, config=config, add_residual=True)
    one, count = jnp.asarray(1, jnp.int32), jnp.asarray(65, jnp.int32)
    out = jax.jit(run)(layers, one, jnp.asarray(stream), count)
    wide = np.asarray(stream, np.float64)
    rms = np.sqrt((wide**2).mean(axis=1, keepdims=True) + config.rms_norm_eps)
    normed = wide / rms * norm
    expected = exact_mixture(normed, **weights, chosen=2, normalised=normalised)
    np.testing.assert_allclose(out[:65], (wide + expected)[:65], atol=1e-5)
    assert not np.any(out[65:])
    x = jnp.asarray(normed, jnp.float32)
    router, *others = map(jnp.asarray, weights.values())
    logits = x @ router.T
    if tied:  # to the bit
        logits = logits.at[:, [1, 4]].set(logits[:, [0, 3]])
    by_xla = mixture.mix(x, logits, mixture.ExpertWeights(*others), experts, GATES["silu"])
    np.testing.assert_allclose(by_xla, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("asked", [1, 70])
def test_logprobs_equal_the_oracle(sizes, dtype, asked):
    x, weight = random_operands(*sizes, dtype)
    rng = np.random.default_rng(1)
    rows = rng.integers(0, sizes[0], 2 * sizes[0]).astype(np.int32)
    tokens = rng.integers(0, sizes[1], (rows.size, asked)).astype(np.int32)
    logits = exact_product(x, weight)[rows]
    largest = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - largest).sum(axis=1, keepdims=True)) + largest
    expected = np.take_along_axis(logits, tokens, axis=1) - total
    tokens[::3, 0], expected[::3] = (
        -1,
        np.where(np.arange(asked) == 0, largest - total, expected)[::3],
    )
    tokens[1::3, 0], expected[1::3, 0] = -2, logits.argmax(axis=1)[1::3]
    count = jnp.asarray(rows.size, jnp.int32)
    out = jax.jit(cpu_operations.token_logprobs)(x, pack(weight), rows, count, tokens)
    np.testing.assert_allclose(out, expected, atol=2e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embeddings_and_norms_equal_the_oracle(dtype):
    x, weight = random_operands(7, 300, 66, "float32")
    embedding = np.asarray(jnp.asarray(weight, dtype))
    tokens = np.asarray([0, 299, 17, 17, 5, 0, 1], np.int32)
    count = jnp.asarray(5, jnp.int32)
    out = jax.jit(cpu_operations.embed)(pack(embedding), tokens, count)
    np.testing.assert_array_equal(out[:5], embedding[tokens[:5]].astype(np.float32))
    assert not np.any(out[5:])
    norm = jnp.asarray(weight[0])
    run = functools.partial(cpu_operations.norm, eps=1e-5, head=pack(embedding))
    normed = jax.jit(run)(x, norm, count)
    wide = np.asarray(x, np.float64)
    rms = np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5)
    assert normed.dtype == dtype
    tolerance = 1e-6 if dtype == "float32" else 2**-8
    expected = wide / rms * np.asarray(norm, np.float64)
    np.testing.assert_allclose(
        np.asarray(normed, np.float64)[:5], expected[:5], rtol=tolerance, atol=tolerance
    )


def test_normed_rows_are_added_as_the_oracle_adds_them():
    x, residual = random_operands(7, 7, 66, "float32")
    norms = jnp.asarray(residual[:2])
    layer, count = jnp.asarray(1, jnp.int32), jnp.asarray(5, jnp.int32)
    run = jax.jit(functools.partial(cpu_operations.add_normed, eps=1e-5))
    out = run(jnp.asarray(residual), x, norms, layer, count)
    wide = np.asarray(x, np.float64)
    rms = np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5)
    expected = residual + wide / rms * residual[1]
    np.testing.assert_allclose(out[:5], expected[:5], rtol=1e-5, atol=1e-5)
    assert not np.any(out[5:])


def test_logits_are_scaled_and_capped():
    """As gemma2 and granite do; else their scores are those of other logits."""
    x, weight = random_operands(6, 64, 32, "float32")
    rows = np.arange(6, dtype=np.int32)
    tokens = np.tile(np.arange(64, dtype=np.int32), (6, 1))
    run = functools.partial(cpu_operations.token_logprobs, scale=0.5, soft_cap=4.0)
    out = jax.jit(run)(x, pack(weight), rows, jnp.asarray(6, jnp.int32), tokens)
    logits = 4.0 * np.tanh(exact_product(x, weight) * 0.5 / 4.0)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_these_are_what_the_decoder_calls():
    """Else the decoder is right and slow, and nobody notices."""
    assert isoprefill_csrc.best_instructions() == isoprefill_csrc.available_instructions()[-1]
    x, weight = random_operands(4, 8, 16, "float32")
    program = jax.jit(cpu_operations.projection).lower(x, pack(weight)).compile().as_text()
    assert "isoprefill_projection" in program


@pytest.mark.parametrize("name", isoprefill_csrc.available_instructions())
def test_a_process_uses_the_instructions_that_it_is_limited_to(name):
    """Else `bench_cpu --instructions` compares others than it says."""
    program = "import isoprefill_csrc; print(isoprefill_csrc.best_instructions())"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "ISOPREFILL_INSTRUCTIONS": name,
    }
    limited = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert limited.stdout.strip() == name


def test_the_faster_instructions_come_last():
    """On Intel vdpbf16ps takes 1.5 times as long as float32: a processor without AMX would be so much slower."""
    names = isoprefill_csrc.available_instructions()
    if "avx512_bf16" not in names:
        pytest.skip("the processor has no avx512_bf16")
    intel = "GenuineIntel" in pathlib.Path("/proc/cpuinfo").read_text()
    assert (names.index("avx512") > names.index("avx512_bf16")) == intel


def shape(*sizes, dtype=np.float32):
    return np.zeros(sizes, dtype)  # of NumPy: nothing may touch a device before the tests run


ONE, TWO = np.int32(1), np.int32(2)
FLOATS, PACKED = (
    shape(2, 0),
    shape(2, 1, 1, 512),
)  # no bias in two layers; weights [5, 4] of two layers
TOKENS = shape(3, 2, dtype=np.int32)
REFUSED = {
    "w has shape [2, 1, 512]; it must be [L, 1, 1, 512]": (
        "projection", shape(3, 5), ONE, ONE, shape(3, 4), shape(2, 1, 512), FLOATS, shape(0, 5),
    ),
    "x has shape [4]; it must be [T, N]": (
        "projection", shape(3, 5), ONE, ONE, shape(4), PACKED, FLOATS, shape(0, 5),
    ),
    "layer is 2; it must be from 0 to 1": (
        "projection", shape(3, 5), TWO, ONE, shape(3, 4), PACKED, FLOATS, shape(0, 5),
    ),
    "rows is 4; it must be from 0 to 3": (
        "projection", shape(3, 5), ONE, np.int32(4), shape(3, 4), PACKED, FLOATS, shape(0, 5),
    ),
    "residual has shape [2, 5]; it must be [3, 5]": (
        "projection", shape(3, 5), ONE, ONE, shape(3, 4), PACKED, FLOATS, shape(2, 5),
    ),
    "w must be uint16, got float32": (
        "projection", shape(3, 5), ONE, ONE, shape(3, 4, dtype=np.uint16), PACKED, FLOATS, shape(0, 5),
    ),
    "w must be uint16, uint8 or float32, got int32": (
        "projection", shape(3, 5), ONE, ONE, shape(3, 4), shape(2, 1, 1, 512, dtype=np.int32), FLOATS, shape(0, 5),
    ),
    "w has shape [2, 1, 1, 1536]; it must be [L = 2, 1, 1, 512]": (
        "projection", shape(3, 5), ONE, ONE, shape(3, 4), shape(2, 1, 1, 1536, dtype=np.uint16), FLOATS, shape(0, 5),
    ),
    "x must all be float32": (
        "projection", shape(3, 5), ONE, ONE, shape(3, 4, dtype=np.int32), PACKED, FLOATS, shape(0, 5),
    ),
    "rows[1] is 3; it must be one of 3 rows": (
        "token_logprobs", shape(2, 1), TWO, shape(3, 4), shape(1, 1, 512), np.asarray([0, 3], np.int32),
        shape(2, 1, dtype=np.int32),
    ),
    "token_ids of row 0 hold 9": (
        "token_logprobs", shape(3, 2), TWO, shape(3, 4), shape(1, 1, 512), shape(3, dtype=np.int32), TOKENS + 9,
    ),
    "residual has shape [3, 5]; it must be [T = 3, E = 4]": (
        "add_normed", shape(3, 4), ONE, TWO, shape(3, 4), shape(2, 4), shape(3, 5),
    ),
    "down has shape [1, 2, 1, 512]; it must be [L = 1, X = 2, 1, 1, 512]": (
        "experts", shape(3, 4), np.int32(0), ONE, shape(3, 4), shape(1, 4), shape(1, 1, 1, 512),
        *[shape(1, 2, 1, 1, 512)] * 2, shape(1, 2, 1, 512), *[shape(1, 0)] * 4,
    ),
    "chosen must be from 1 to 2, got 3": (
        "experts", shape(3, 4), np.int32(0), ONE, shape(3, 4), shape(1, 4), shape(1, 1, 1, 512),
        *[shape(1, 2, 1, 1, 512)] * 3, *[shape(1, 0)] * 4,
    ),
    "up_bias has shape [1, 2, 4]; it must be [L = 1, X = 2, 5]": (
        "experts", shape(3, 4), np.int32(0), ONE, shape(3, 4), shape(1, 4), shape(1, 1, 1, 512),
        *[shape(1, 2, 1, 1, 512)] * 3, shape(1, 0), shape(1, 2, 5), shape(1, 2, 4), shape(1, 0),
    ),
    "token_ids[0] is 9": ("embedding", shape(3, 4), TWO, shape(3, dtype=np.int32) + 9, shape(1, 1, 512)),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message):
    """Nothing is read out of bounds, whatever a program hands over."""
    target, out, *operands = REFUSED[message]
    call = jax.ffi.ffi_call(f"isoprefill_{target}", (jax.ShapeDtypeStruct(out.shape, out.dtype),))
    attributes = {
        "projection": {"scale": np.float32(1)},
        "embedding": {"vocab_size": 5},
        "token_logprobs": {"vocab_size": 5, "scale": np.float32(1), "soft_cap": np.float32(0)},
        "add_normed": {"eps": np.float32(1e-6)},
        "experts": {
            **{"eps": np.float32(1e-6), "scale": np.float32(1), "width": 5, "chosen": 3},
            **dict.fromkeys(("normalised", "adds", "narrow"), False),
            "activation": "silu",
        },
    }[target]
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.block_until_ready(jax.jit(lambda *given: call(*given, **attributes))(*operands))
    assert message in str(error.value)


def test_packing_refuses_what_does_not_fit():
    for weights, packed, message in (
        (shape(5, 4), shape(511), "packed has 511 elements; it must have 512"),
        (shape(5, 4), shape(512, dtype=np.uint16), "must both be float32 or both be uint16"),
        (shape(5, 4).T, shape(512), "C-contiguous"),
        (shape(20), shape(512), r"weights must be \[M, N\]"),
    ):
        with pytest.raises(ValueError, match=message):
            isoprefill_csrc.pack_weights(weights, packed)
    assert PackedWeights(shape(1, 1, 512, dtype=np.uint16), 5, 4).dtype == jnp.bfloat16
