"""Which rows a device has between products whose weights several devices share out.

Every device needs all rows for its part of a product, but norms and sums only where a row's sum is. So each keeps a
share of the residual stream's rows: a product's parts are added up where the row is kept (reduce-scatter), and rows are
passed on (all-gather) in the weights' dtype, after their norm. This is sequence parallelism:
https://arxiv.org/abs/2205.05198, section 4.2.2.

What other rows hold changes no bit of a row: a sum over the devices takes the row's own numbers alone. How many rows
are before it may: a TPU adds up the parts of more than two devices in an order that depends on where in the pack the
row is, with rows shared out and without (docs/scoring.md). The parts are float32, and so is the rounding that differs.

Letters: T rows, t rows of this device, E hidden_size.
"""

import dataclasses
from collections.abc import Callable

import jax
from jax import lax
from jaxtyping import Array, Float

from isoprefill.models.decoder.norms import AllReduce


def _same(rows: jax.Array) -> jax.Array:
    return rows


@dataclasses.dataclass(frozen=True, slots=True)
class RowShares:
    """How rows come to a device and leave it.

    Attributes:
        all_reduce: adds up each device's part of a sum, of rows that all of them have; None: there is one device.
        own: of an array [T, ...] that all devices have, this device's [t, ...].
        summed: of each device's part of a sum, [T, E], the sum of this device's rows.
        gathered: of this device's rows, all.
    """

    all_reduce: AllReduce = None
    own: Callable[[Array], Array] = _same
    summed: Callable[[Float[Array, "T E"]], Float[Array, "t E"]] = _same
    gathered: Callable[[Float[Array, "t E"]], Float[Array, "T E"]] = _same

    @classmethod
    def over(
        cls, axis: str, devices: int, rows: int, all_reduce: Callable[[Array], Array]
    ) -> "RowShares":
        """Shares out T = `rows` over a mesh axis, inside shard_map. If there is a rest, every device has them all."""
        if devices == 1:
            return cls()
        if rows % devices:
            return cls(all_reduce, summed=all_reduce)
        count = rows // devices

        def own(array: Array) -> Array:
            return lax.dynamic_slice_in_dim(array, lax.axis_index(axis) * count, count)

        def summed(partial: Float[Array, "T E"]) -> Float[Array, "t E"]:
            return lax.psum_scatter(partial, axis, tiled=True)

        def gathered(share: Float[Array, "t E"]) -> Float[Array, "T E"]:
            return lax.all_gather(share, axis, tiled=True)

        return cls(all_reduce, own, summed, gathered)


ONE_DEVICE = RowShares()
