"""Attention with the TPU kernel: both variants of its softmax, and what they need around them."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from isoprefill_pallas.chips import DEFAULT_MATRIX_UNIT, chip_of
from isoprefill_pallas.heads import Heads
from isoprefill_pallas.operands import check_operands
from isoprefill_pallas.schedule import KernelSchedule
from isoprefill_pallas.tile_attention import tile_attention

DEFAULT_VMEM_LIMIT_BYTES = 56 << 20


def attend(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    schedule: KernelSchedule,
    *,
    scale: float,
    soft_cap: float | None = None,
    interpret: bool | pltpu.InterpretParams | None = None,
    vmem_limit_bytes: int | None = None,
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    """Computes isolated multi-item attention on a TPU.

    Rows whose softmax anchor does not certify their result (see softmax.py) are taken from a second run with a
    running maximum, which happens only if there are such rows. Which rows these are depends on nothing that
    they do not see.

    Args:
        q, k, v: bfloat16 or float32, all alike; D is 64, 128 or 256, Hq / Hkv from 1 to 16. S is
            `schedule.num_columns`, or already `schedule.padded_columns`.
        schedule: of the rows' and columns' layout.
        scale: factor of the scores.
        soft_cap: a score s becomes soft_cap * tanh(s / soft_cap); from 1e-30 to 1e30.
        interpret: None compiles on a TPU and uses the TPU interpreter elsewhere; False compiles wherever the
            computation is lowered to; InterpretParams are the interpreter's.
        vmem_limit_bytes: by default what the chip allows.

    Returns:
        The output in q's dtype, zeros for padding, and the natural log-sum-exp of each row's scores, float32,
        -inf for padding.

    Raises:
        ValueError: naming the argument, its value and what is expected.
    """
    padded = k.shape[:1] == (schedule.padded_columns,)
    columns = schedule.padded_columns if padded else schedule.num_columns
    check_operands(
        q, k, v, of="schedule", rows=schedule.num_rows, columns=columns, soft_cap=soft_cap
    )
    Heads.of(q, k)  # refuses what the kernel does not take
    interpret, vmem_limit_bytes = device_options(interpret, vmem_limit_bytes)
    missing = schedule.padded_columns - k.shape[0]
    if missing > 0:
        k, v = (jnp.pad(x, ((0, missing), (0, 0), (0, 0))) for x in (k, v))

    def run(online: bool) -> tuple[jax.Array, jax.Array]:
        outputs = []
        for part in schedule.parts:
            rows = slice(part.first_row, part.first_row + part.num_rows)
            outputs.append(
                tile_attention(
                    q[rows],
                    k,
                    v,
                    jnp.asarray(schedule.row_bounds)[:, rows],
                    part,
                    sizes=schedule.sizes,
                    scale=scale,
                    soft_cap=soft_cap,
                    online=online,
                    interpret=interpret,
                    vmem_limit_bytes=vmem_limit_bytes,
                )
            )
        out, lse = zip(*outputs, strict=True)
        return jnp.concatenate(out), jnp.concatenate(lse)

    out, lse = run(online=False)
    uncertified = jnp.isnan(lse)
    # Heads side by side, as the kernel writes them: another shape would be another layout, and a copy.
    flat = out.reshape(out.shape[0], -1)

    def redo() -> tuple[jax.Array, jax.Array]:
        online_out, online_lse = run(online=True)
        out_of_it = jnp.repeat(uncertified, out.shape[2], axis=1)
        return jnp.where(out_of_it, online_out.reshape(flat.shape), flat), jnp.where(
            uncertified, online_lse, lse
        )

    flat, lse = lax.cond(uncertified.any(), redo, lambda: (flat, lse))
    return flat.reshape(out.shape), lse


def device_options(
    interpret: bool | pltpu.InterpretParams | None = None, vmem_limit_bytes: int | None = None
) -> tuple[bool | pltpu.InterpretParams, int]:
    """Returns how kernels run on the device that is there, and how much VMEM they may take, unless it is given."""
    if interpret is None:
        interpret = False if jax.default_backend() == "tpu" else pltpu.InterpretParams()
    if vmem_limit_bytes is None:
        chip = chip_of(jax.devices()[0].device_kind)
        vmem_limit_bytes = DEFAULT_VMEM_LIMIT_BYTES if chip is None else chip.vmem_limit_bytes
    return interpret, vmem_limit_bytes


def matrix_unit() -> int:
    """Returns how many columns a matrix unit of the device that is there multiplies with at once."""
    chip = chip_of(jax.devices()[0].device_kind)
    return DEFAULT_MATRIX_UNIT if chip is None else chip.matrix_unit
