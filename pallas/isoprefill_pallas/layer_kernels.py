"""Two kernels of a decoder's layer: a projection with what follows it, in one pass.

So no float32 array of all rows and a projection's whole width is ever written to HBM.

    project_heads   heads = x W^T, each head RMS-normalised (if there is a weight for it) and rotated (if there are
                    angles), as the attention kernel reads them: token after token, heads side by side
    project_gated   silu(x G^T) * (x U^T)

Sums, norms, rotations and the gate are in float32; the results are rounded once, to x's dtype. A row's result depends
on its row of x alone, and on nothing of the number of rows.

Weights stay stacked over the layers, and the kernels read the layer's part of them: a slice would be a copy.
Letters: T rows, E hidden_size, L layers, H heads, D head_dim, F intermediate_size, N a projection's width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, BFloat16, Float, Int

from isoprefill_csrc import LANES
from isoprefill_pallas.chips import DEFAULT_MATRIX_UNIT

# Of a tile, at most, for E up to 4096; wider ones get less, as many as TILES_BYTES of VMEM hold twice.
ROWS = 1024
COLUMNS = 512
TILES_BYTES = 40 << 20
CHUNK = 256  # rows whose product is finished before the next is begun

Ref = Any  # a Pallas reference; each has its shape beside it


def project_heads(
    x: BFloat16[Array, "T E"],
    weights: BFloat16[Array, "L N E"],
    layer: Int[Array, ""],
    rotation: tuple[Float[Array, "T half"], Float[Array, "T half"]] | None,
    norm: Float[Array, "D"] | None,
    *,
    head_dim: int,
    eps: float,
    interpret: bool | pltpu.InterpretParams = False,
    vmem_limit_bytes: int | None = None,
) -> BFloat16[Array, "T N"]:
    """Returns the heads of a projection side by side, normalised and rotated.

    Args:
        rotation: cosine and sine of the rows' angles, float32, of all D / 2 pairs; None: the heads are not rotated.
        norm: what a head is multiplied with after it was divided by its root mean square; None: it is not.
        head_dim: a multiple of 128.
        eps: added to the mean square.
    """
    row_inputs, row_specs = [], []
    tile = rows_of_tile(*x.shape)
    if rotation is not None:
        row_inputs = [angle.T for angle in rotation]
        row_specs = [pl.BlockSpec((head_dim // 2, tile), lambda m, n, layer: (0, m))] * 2
    if norm is not None:
        wide = jnp.broadcast_to(norm.astype(jnp.float32)[:, None], (head_dim, LANES))
        row_inputs.append(wide)
        row_specs.append(pl.BlockSpec(wide.shape, lambda m, n, layer: (0, 0)))
    body = functools.partial(
        _heads_tile,
        head_dim=head_dim,
        eps=eps,
        rotated=rotation is not None,
        normed=norm is not None,
    )
    return _call(
        body,
        "isoprefill_heads",
        x,
        [weights],
        layer,
        row_inputs,
        row_specs,
        columns=_heads_of_tile(weights, head_dim) * head_dim,
        interpret=interpret,
        vmem_limit_bytes=vmem_limit_bytes,
    )


def project_gated(
    x: BFloat16[Array, "T E"],
    gate: BFloat16[Array, "L F E"],
    up: BFloat16[Array, "L F E"],
    layer: Int[Array, ""],
    *,
    matrix_unit: int = DEFAULT_MATRIX_UNIT,
    interpret: bool | pltpu.InterpretParams = False,
    vmem_limit_bytes: int | None = None,
) -> BFloat16[Array, "T F"]:
    """Returns what `down` is multiplied with. F is a multiple of 128.

    Args:
        matrix_unit: how many columns the chip's matrix unit multiplies with at once, a multiple of 128.
    """
    return _call(
        _gated_tile,
        "isoprefill_gated",
        x,
        [gate, up],
        layer,
        [],
        [],
        columns=_columns_of_tile(gate, matrix_unit),
        interpret=interpret,
        vmem_limit_bytes=vmem_limit_bytes,
    )


def takes_heads(hidden_size: int, head_dim: int) -> bool:
    """Whether `project_heads` takes rows and heads of these widths: whole lanes."""
    return hidden_size % LANES == 0 and head_dim % LANES == 0


def takes_gate(hidden_size: int, width: int) -> bool:
    """Whether `project_gated` takes E = `hidden_size` and F = `width`."""
    return hidden_size % LANES == 0 and width % LANES == 0


def rows_of_tile(rows: int, depth: int) -> int:
    """Returns how many of T = `rows` rows of E = `depth` numbers are computed at once."""
    weights = 2 * _most_columns(depth)
    most = ROWS
    while most > CHUNK and 2 * (most + weights) * depth * 2 > TILES_BYTES:
        most //= 2
    return min(most, rows)


def _most_columns(depth: int) -> int:
    return max(LANES, COLUMNS // pl.next_power_of_2(pl.cdiv(depth, 4096)))


def _heads_of_tile(weights: jax.Array, head_dim: int) -> int:
    """Returns the most heads that divide theirs and are few enough."""
    _, width, depth = weights.shape
    count, most = width // head_dim, max(1, _most_columns(depth) // head_dim)
    return max(n for n in range(1, most + 1) if count % n == 0)


def _columns_of_tile(weights: jax.Array, unit: int) -> int:
    """Returns whole units, of which the last tile goes least beyond the width; of equally good ones the most.

    With less than a unit part of it would be idle, in every tile: 128 columns take as long as 256.
    """
    _, width, depth = weights.shape
    sizes = range(_most_columns(depth), 0, -unit)
    best = min(sizes, key=lambda columns: pl.cdiv(width, columns) * columns)
    return min(width, best)


def _call(
    body: Any,
    name: str,
    x: jax.Array,
    weights: list[jax.Array],
    layer: jax.Array,
    row_inputs: list[jax.Array],
    row_specs: list[Any],
    *,
    columns: int,
    interpret: bool | pltpu.InterpretParams,
    vmem_limit_bytes: int | None,
) -> jax.Array:
    (rows, depth), width = x.shape, weights[0].shape[1]
    tile = rows_of_tile(*x.shape)
    # Tiles of rows are the outer loop: x stays while the weights pass.
    of_x = pl.BlockSpec((tile, depth), lambda m, n, layer: (m, 0))
    of_weights = pl.BlockSpec((1, columns, depth), lambda m, n, layer: (layer[0], n, 0))
    out_shape: Any = jax.ShapeDtypeStruct((rows, width), x.dtype)
    if not interpret:
        x, *weights = (pltpu.with_memory_space_constraint(a, pltpu.HBM) for a in (x, *weights))
        out_shape = pltpu.HBM(out_shape.shape, out_shape.dtype)
    out: jax.Array = pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(pl.cdiv(rows, tile), pl.cdiv(width, columns)),
            in_specs=[of_x, *[of_weights] * len(weights), *row_specs],
            out_specs=pl.BlockSpec((tile, columns), lambda m, n, layer: (m, n)),
        ),
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=vmem_limit_bytes,
            # The grid is that of the arrays' own shapes, and the layer is clamped to them.
            disable_bounds_checks=True,
        ),
        interpret=interpret,
        name=name,
    )(jnp.clip(layer, 0, weights[0].shape[0] - 1).reshape(1), x, *weights, *row_inputs)
    return out


def _heads_tile(
    layer: Ref,  # scalar memory
    x: Ref,  # [tile, E]
    weights: Ref,  # [1, columns, E]
    *refs: Ref,  # cosine and sine [D / 2, tile] if rotated; norm [D, 128] if normed; out [tile, columns]
    head_dim: int,
    eps: float,
    rotated: bool,
    normed: bool,
) -> None:
    # Heads come out transposed, [D, rows]: sums over D are additions of registers, and its halves are registers too.
    *given, out = refs
    half = head_dim // 2
    for at in _chunks(x.shape[0]):
        product = _product(weights[0], x[at, :])  # [columns, chunk]
        for first in range(0, out.shape[1], head_dim):
            head = product[first : first + head_dim]
            if normed:
                mean = jnp.mean(head * head, axis=0, keepdims=True)
                wide = given[-1][...]
                factor = jnp.concatenate([wide] * pl.cdiv(head.shape[1], LANES), axis=1)
                head = head * lax.rsqrt(mean + eps) * factor[:, : head.shape[1]]
            if rotated:
                cosine, sine = given[0][:, at], given[1][:, at]
                one, two = head[:half], head[half:]
                head = jnp.concatenate(
                    [one * cosine - two * sine, two * cosine + one * sine], axis=0
                )
            out[at, first : first + head_dim] = head.astype(out.dtype).T


def _gated_tile(
    layer: Ref,  # scalar memory
    x: Ref,  # [tile, E]
    gate: Ref,  # [1, columns, E]
    up: Ref,  # [1, columns, E]
    out: Ref,  # [tile, columns]
) -> None:
    for at in _chunks(x.shape[0]):
        rows = x[at, :]
        out[at, :] = (jax.nn.silu(_product(rows, gate[0])) * _product(rows, up[0])).astype(
            out.dtype
        )


def _chunks(rows: int) -> list[slice]:
    return [slice(first, min(first + CHUNK, rows)) for first in range(0, rows, CHUNK)]


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns x y^T in float32, of [m, E] and [n, E]."""
    return lax.dot_general(x, y, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
