"""The TPU's kernels of a layer outside its attention: their numbers, and that a row depends on itself alone."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Float

from isoprefill.doctor.finding import Finding
from isoprefill_pallas.layer_kernels import project_gated, project_heads
from isoprefill_pallas.op import device_options

ROWS, WIDTH, HEAD_DIM, EPS = 48, 256, 128, 1e-6
HEADS = 5  # 640 columns, of which the gate's last tile is not full where a matrix unit has 256
TOLERANCE = 0.01  # rounding to bfloat16 is 0.004, of a result or of 1, whichever is larger
_ADVICE = "do not score in bfloat16 with --attention pallas here, and report this table"

# Of rows [T, E]: heads [T, H * D], and gated rows [T, H * D].
Kernels = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def check_layer_kernels(kernels: Kernels | None = None) -> Iterator[Finding]:
    """Yields whether the kernels are right, and whether a row can change another.

    Args:
        kernels: what computes; by default the product's.
    """
    kernels = kernels or _product
    x = _random(ROWS, WIDTH)
    try:
        found = kernels(x)
        damaged = x.copy()
        damaged[ROWS // 2 :] = np.nan
        beside_nan = kernels(damaged)
    except (RuntimeError, NotImplementedError) as error:  # of XLA: its compiler or the device
        yield Finding("layer kernels", "failed", str(error).splitlines()[0], _ADVICE)
        return
    wanted = _definition(x.astype(np.float64))
    errors = [
        float(np.max(np.abs(one.astype(np.float64) - other) / np.maximum(1, np.abs(other))))
        for one, other in zip(found, wanted, strict=True)
    ]
    detail = f"heads within {errors[0]:.1e}, gate within {errors[1]:.1e} of the definition"
    if not np.max(errors) <= TOLERANCE:  # NaN is a failure
        detail += f"; at most {TOLERANCE:g} is expected"
        yield Finding("layer kernels", "failed", detail, _ADVICE)
    else:
        yield Finding("layer kernels", "ok", detail)
    moved = sum(
        one[: ROWS // 2].tobytes() != other[: ROWS // 2].tobytes()
        for one, other in zip(found, beside_nan, strict=True)
    )
    if moved:
        detail = "rows changed when others became NaN"
        yield Finding("isolation: layers", "failed", detail, _ADVICE)
    else:
        yield Finding("isolation: layers", "ok", "not a bit of a row moved when others became NaN")


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape[0]).standard_normal(shape).astype(ml_dtypes.bfloat16)


def _weights() -> np.ndarray:
    """Returns [L, N, E], such that products are about 1."""
    scaled = _random(3, HEADS * HEAD_DIM, WIDTH).astype(np.float32) / np.sqrt(WIDTH)
    return scaled.astype(ml_dtypes.bfloat16)


def _angles() -> Float[np.ndarray, "T half"]:
    steps = np.arange(HEAD_DIM // 2, dtype=np.float32) / HEAD_DIM
    return np.arange(ROWS, dtype=np.float32)[:, None] * 10.0**-steps


def _product(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    interpret, limit = device_options()
    weights, angles = jnp.asarray(_weights()), _angles()
    norm = jnp.ones(HEAD_DIM, jnp.float32)

    @jax.jit
    def run(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        heads = project_heads(
            x, weights, jnp.int32(1), (jnp.cos(angles), jnp.sin(angles)), norm,
            head_dim=HEAD_DIM, eps=EPS, interpret=interpret, vmem_limit_bytes=limit,
        )  # fmt: skip
        gated = project_gated(
            x, weights, weights, jnp.int32(2), interpret=interpret, vmem_limit_bytes=limit
        )
        return heads, gated

    heads, gated = run(jnp.asarray(x), weights)
    return np.asarray(heads), np.asarray(gated)


def _definition(x: Float[np.ndarray, "T E"]) -> tuple[np.ndarray, np.ndarray]:
    """In float64: each head divided by its root mean square and rotated; silu(x G^T) * (x U^T)."""
    weights = _weights().astype(np.float64)
    heads = (x @ weights[1].T).reshape(ROWS, HEADS, HEAD_DIM)
    heads /= np.sqrt((heads**2).mean(-1, keepdims=True) + EPS)
    one, two = np.split(heads, 2, axis=-1)
    cosine, sine = (turn(_angles().astype(np.float64))[:, None] for turn in (np.cos, np.sin))
    rotated = np.concatenate([one * cosine - two * sine, two * cosine + one * sine], axis=-1)
    product = x @ weights[2].T
    return rotated.reshape(ROWS, -1), product / (1 + np.exp(-product)) * product
