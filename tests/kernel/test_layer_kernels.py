"""The TPU kernels of a layer outside its attention, in the interpreter.

If one of these fails, every score of a model in bfloat16 on a TPU is wrong, or depends on other rows of the pack.
"""

import functools
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from isoprefill_pallas.layer_kernels import project_gated, project_heads

HEAD_DIM, DEPTH, LAYERS, EPS = 128, 256, 3, 1e-6
ROUNDING = 2.0**-8  # of bfloat16, half of it and as much for what float32 sums differ by


def bfloat16(rng, *shape):
    return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)


def angles(rng, rows):
    angle = rng.uniform(0, 6.3, (rows, HEAD_DIM // 2)).astype(np.float32)
    return np.cos(angle), np.sin(angle)


def close(got, wanted):
    got = np.asarray(got).astype(np.float64)
    np.testing.assert_allclose(
        got, wanted, rtol=ROUNDING, atol=ROUNDING * np.abs(wanted).max() / 64
    )


@pytest.mark.parametrize("rows", [48, 1088])  # one tile; two, of which the second is not full
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("rotated", [True, False])
def test_heads_are_projected_normalised_and_rotated(rows, normed, rotated):
    """Against float64, of the definition: x W^T, then the norm of each head, then RoPE of its halves."""
    rng = np.random.default_rng(rows)
    x, weights = bfloat16(rng, rows, DEPTH), bfloat16(rng, LAYERS, 3 * HEAD_DIM, DEPTH)
    rotation = angles(rng, rows) if rotated else None
    norm = bfloat16(rng, HEAD_DIM) if normed else None
    got = project_heads(
        x, weights, jnp.int32(1), rotation, None if norm is None else jnp.asarray(norm),
        head_dim=HEAD_DIM, eps=EPS, interpret=True,
    )  # fmt: skip
    heads = (x.astype(np.float64) @ weights[1].astype(np.float64).T).reshape(rows, 3, HEAD_DIM)
    if normed:
        heads = heads / np.sqrt((heads**2).mean(-1, keepdims=True) + EPS) * norm.astype(np.float64)
    if rotated:
        cosine, sine = (angle[:, None].astype(np.float64) for angle in rotation)
        one, two = heads[..., : HEAD_DIM // 2], heads[..., HEAD_DIM // 2 :]
        heads = np.concatenate([one * cosine - two * sine, two * cosine + one * sine], -1)
    close(got, heads.reshape(rows, -1))


@pytest.mark.parametrize(
    ("rows", "width"), [(48, 128), (48, 384), (48, 640), (1088, 640), (48, 1024)]
)
def test_the_gate_multiplies_what_it_should(rows, width):
    """Against float64, with the weights of the layer that was asked for.

    The last tile of an odd multiple of 128 columns is not full: what lies behind them reaches no result.
    """
    rng = np.random.default_rng(rows)
    x = bfloat16(rng, rows, DEPTH)
    gate, up = (bfloat16(rng, LAYERS, width, DEPTH) for _ in range(2))
    got = project_gated(x, gate, up, jnp.int32(2), interpret=True)
    g, u = (x.astype(np.float64) @ w[2].astype(np.float64).T for w in (gate, up))
    close(got, g / (1 + np.exp(-g)) * u)


@pytest.mark.parametrize(
    ("unit", "width", "depth", "computed"),
    [
        (256, 3072, 1024, 3072),
        (256, 3200, 5120, 3328),
        (256, 1920, 1024, 2048),
        (256, 640, 256, 768),
        (256, 128, 256, 128),  # all that there is
        (128, 3200, 5120, 3200),
        (128, 1920, 1024, 1920),
    ],
)
def test_the_gates_tiles_fill_the_matrix_unit(unit, width, depth, computed):
    """Columns in tiles of half a unit would take twice as long, as 3,200 once did; no more than a unit is wasted."""
    shapes = [
        jax.ShapeDtypeStruct(sizes, jnp.bfloat16)
        for sizes in ((64, depth), *[(LAYERS, width, depth)] * 2)
    ]
    project = functools.partial(project_gated, matrix_unit=unit)
    (call,) = (
        equation
        for equation in jax.make_jaxpr(project)(*shapes, 0).eqns
        if equation.primitive.name == "pallas_call"
    )
    mapping = call.params["grid_mapping"]
    (out,) = mapping.block_mappings_output
    tile = out.block_shape[1].block_size
    assert mapping.grid[1] * tile == computed
    assert tile % unit == 0 or tile == width


@pytest.mark.parametrize("depth", [576, 1024, 4096, 5120, 6144, 7168, 8192, 12288, 16384])
def test_tiles_leave_room_in_vmem(depth):
    """Rows and two matrices' columns, in two buffers each, take at most 40 MB; the smallest chips have 64."""
    shapes = [
        jax.ShapeDtypeStruct(sizes, jnp.bfloat16)
        for sizes in ((12288, depth), *[(LAYERS, 12288, depth)] * 2)
    ]
    (call,) = (
        equation
        for equation in jax.make_jaxpr(project_gated)(*shapes, 0).eqns
        if equation.primitive.name == "pallas_call"
    )
    blocks = call.params["grid_mapping"].block_mappings
    sizes = [
        math.prod(getattr(size, "block_size", 1) for size in block.block_shape) for block in blocks
    ]
    assert 2 * 2 * sum(sizes[:-1]) <= 40 << 20
    assert sizes[0] >= 256 * depth


def test_a_row_depends_on_its_row_alone():
    """NaN in other rows, and another number of rows, change no bit."""
    rng = np.random.default_rng(0)
    x, weights = bfloat16(rng, 1088, DEPTH), bfloat16(rng, LAYERS, HEAD_DIM, DEPTH)
    cosine, sine = angles(rng, 1088)
    norm = jnp.asarray(bfloat16(rng, HEAD_DIM))

    def both(x, at):
        rotation = (cosine[at], sine[at])
        heads = project_heads(
            x[at], weights, jnp.int32(0), rotation, norm,
            head_dim=HEAD_DIM, eps=EPS, interpret=True,
        )  # fmt: skip
        gated = project_gated(x[at], weights, weights, jnp.int32(0), interpret=True)
        return [np.asarray(array).view(np.uint16) for array in (heads, gated)]

    whole = both(x, slice(None))
    damaged = x.copy()
    damaged[:100], damaged[200:] = np.nan, np.nan
    for other, at in (
        (both(damaged, slice(None)), slice(100, 200)),
        (both(x, slice(64, 256)), None),
    ):
        for got, wanted in zip(other, whole, strict=True):
            if at is None:
                np.testing.assert_array_equal(got, wanted[64:256])
            else:
                np.testing.assert_array_equal(got[at], wanted[at])


def test_float32_never_leaves_the_kernel():
    """What the kernels are for: no float32 array of all rows and a projection's whole width in the program."""
    rows, width = 2048, 3 * HEAD_DIM
    x = jax.ShapeDtypeStruct((rows, DEPTH), jnp.bfloat16)
    weights = jax.ShapeDtypeStruct((LAYERS, width, DEPTH), jnp.bfloat16)
    index = jax.ShapeDtypeStruct((), jnp.int32)

    def layer(x, weights, index):
        heads = project_heads(x, weights, index, None, None, head_dim=HEAD_DIM, eps=EPS)
        return heads, project_gated(x, weights, weights, index)

    outside = [
        variable.aval
        for equation in jax.make_jaxpr(layer)(x, weights, index).eqns
        for variable in equation.outvars
    ]
    assert any(aval.shape == (rows, width) and aval.dtype == jnp.bfloat16 for aval in outside)
    assert not any(aval.shape == (rows, width) and aval.dtype == jnp.float32 for aval in outside)
