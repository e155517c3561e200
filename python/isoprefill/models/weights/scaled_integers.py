"""Matrices of quantised checkpoints as they are stored: integers of a few bits, and a scale for some of a row.

Each weight is scale * integer + offset in float32, rounded after the product and after the sum.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int8

import isoprefill_csrc
from isoprefill.host.memory import address_space_left, host_bytes

RUN = isoprefill_csrc.SCALED_RUN  # elements of a row: a scale is for a multiple of so many


def keeps_integers(float_bytes: int) -> bool:
    """Returns whether a CPU keeps what is stored so as integers, in a model that would take so many bytes without.

    They are read faster than floats, but where float32 is multiplied in tiles a tenth of a small request's time goes
    into making the tiles' numbers of them. There floats stay floats if the model fits into half of the memory.
    """
    if not isoprefill_csrc.multiplies_parts():
        return True
    memory, mappable = host_bytes(), address_space_left()
    if mappable is not None:
        memory = min(memory, mappable)
    return float_bytes > memory // 2


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ScaledIntegers:
    """A matrix [M, N].

    Attributes:
        integers: [M, N].
        scales: [M, N / run], for `run` integers each; run is a multiple of 16.
        offsets: [M, N / run], or None: zeros.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    integers: Int8[np.ndarray, "M N"]
    scales: Float32[np.ndarray, "M runs"]
    offsets: Float32[np.ndarray, "M runs"] | None = None

    def __post_init__(self) -> None:
        (rows, length), (scaled, runs) = self.integers.shape, self.scales.shape
        if scaled != rows or not runs or length % (runs * RUN):
            raise ValueError(
                f"scales must be for a multiple of {RUN} integers each, got {list(self.integers.shape)} integers and "
                f"{list(self.scales.shape)} scales"
            )
        if self.offsets is not None and self.offsets.shape != self.scales.shape:
            raise ValueError(
                f"offsets must be as many as scales, got {list(self.offsets.shape)} and {list(self.scales.shape)}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    def rows(self, which: slice | np.ndarray) -> "ScaledIntegers":
        """Returns some rows."""
        offsets = None if self.offsets is None else self.offsets[which]
        return ScaledIntegers(self.integers[which], self.scales[which], offsets)

    def is_finite(self) -> bool:
        """Returns whether all weights are for certain: whether any integers of a byte would make finite ones."""
        with np.errstate(over="ignore"):
            largest = np.abs(self.scales) * np.float32(128)
            if self.offsets is not None:
                largest += np.abs(self.offsets)
        return bool(np.isfinite(largest).all())

    def pack_into(self, data: np.ndarray) -> None:
        """Packs into uint8 [M / 16, N / 32, bytes of a step], rounded up (csrc/packed_weights.h)."""
        offsets = np.empty((0, 0), np.float32) if self.offsets is None else self.offsets
        isoprefill_csrc.pack_scaled_integers(
            np.ascontiguousarray(self.integers),
            np.ascontiguousarray(self.scales),
            np.ascontiguousarray(offsets),
            data,
        )

    def values(self) -> Float32[np.ndarray, "M N"]:
        """Returns the weights."""
        run = self.shape[1] // self.scales.shape[1]
        products = self.integers.reshape(*self.scales.shape, run) * self.scales[..., None]
        if self.offsets is not None:
            products += self.offsets[..., None]
        return products.reshape(self.shape)
