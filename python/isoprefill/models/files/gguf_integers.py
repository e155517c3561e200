"""Integers and scales of GGUF's blocks: what the `gguf` package multiplies when it undoes a quantisation.

Layouts: ggml-quants.c of llama.cpp. A block of type Q8_0 … Q5_1 has 32 numbers, one of type Q4_K … Q6_K has 256.
"""

from collections.abc import Callable

import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from jaxtyping import Float32, Int8, UInt8

from isoprefill.models.weights.scaled_integers import ScaledIntegers

Blocks = UInt8[np.ndarray, "blocks bytes"]
# Of each block: its numbers, a scale for some of them, and an offset, or none.
Parts = tuple[
    Int8[np.ndarray, "blocks numbers"],
    Float32[np.ndarray, "blocks scales"],
    Float32[np.ndarray, "blocks scales"] | None,
]


def scaled_integers(blocks: Blocks, quantization: Type, shape: tuple[int, ...]) -> ScaledIntegers:
    """Returns a matrix [M, N], or several below each other, of the bytes of its blocks.

    Args:
        blocks: row after row.
        quantization: a key of `READERS`.
        shape: of the tensor; N is its last size.
    """
    integers, scales, offsets = READERS[quantization](blocks)
    length = shape[-1]
    scales = scales.reshape(-1, length * scales.shape[1] // integers.shape[1])
    return ScaledIntegers(
        integers.reshape(-1, length),
        scales,
        None if offsets is None else offsets.reshape(scales.shape),
    )


def _half(blocks: Blocks, begin: int) -> Float32[np.ndarray, "blocks 1"]:
    """Reads two bytes of each block as a float16."""
    return np.ascontiguousarray(blocks[:, begin : begin + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Blocks, together: int) -> Blocks:
    """Splits bytes: of each `together` the low halves, then the high ones."""
    groups = packed.reshape(len(packed), -1, together)
    return np.stack((groups & 0xF, groups >> 4), axis=2).reshape(len(packed), -1)


def _bits(packed: Blocks, width: int, together: int) -> Blocks:
    """Splits bytes into numbers of `width` bits: of each `together` bytes the lowest, then the next."""
    groups = packed.reshape(len(packed), -1, 1, together)
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return ((groups >> shifts) & ((1 << width) - 1)).reshape(len(packed), -1)


def _q8_0(blocks: Blocks) -> Parts:
    return blocks[:, 2:].view(np.int8), _half(blocks, 0), None


def _q4_0(blocks: Blocks) -> Parts:
    return _nibbles(blocks[:, 2:], 16).view(np.int8) - np.int8(8), _half(blocks, 0), None


def _q4_1(blocks: Blocks) -> Parts:
    return _nibbles(blocks[:, 4:], 16).view(np.int8), _half(blocks, 0), _half(blocks, 2)


def _fifth_bits(packed: Blocks) -> Blocks:
    """Returns the bits of four bytes a block, the lowest first, as 16 or 0."""
    return np.unpackbits(np.ascontiguousarray(packed), axis=1, bitorder="little") << np.uint8(4)


def _q5_0(blocks: Blocks) -> Parts:
    numbers = _nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])
    return numbers.view(np.int8) - np.int8(16), _half(blocks, 0), None


def _q5_1(blocks: Blocks) -> Parts:
    numbers = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])
    return numbers.view(np.int8), _half(blocks, 0), _half(blocks, 2)


def _scales_and_minima(
    blocks: Blocks,
) -> tuple[Float32[np.ndarray, "blocks 8"], Float32[np.ndarray, "blocks 8"]]:
    """Returns the scales and offsets of Q4_K and Q5_K: two halves, and 8 scales and 8 minima of 6 bits."""
    scales, minima, rest = (blocks[:, begin : begin + 4] for begin in (4, 8, 12))
    six = np.uint8(0x3F)
    scale = np.hstack((scales & six, (rest & 0xF) | ((scales >> 2) & 0x30))).astype(np.float32)
    minimum = np.hstack((minima & six, (rest >> 4) | ((minima >> 2) & 0x30))).astype(np.float32)
    return _half(blocks, 0) * scale, -(_half(blocks, 2) * minimum)


def _q4_k(blocks: Blocks) -> Parts:
    return (_nibbles(blocks[:, 16:], 32).view(np.int8), *_scales_and_minima(blocks))


def _q5_k(blocks: Blocks) -> Parts:
    fifth = _bits(blocks[:, 16:48], 1, 32) << np.uint8(4)
    numbers = _nibbles(blocks[:, 48:], 32) | fifth
    return (numbers.view(np.int8), *_scales_and_minima(blocks))


def _q6_k(blocks: Blocks) -> Parts:
    high = _bits(blocks[:, 128:192], 2, 32) << np.uint8(4)
    numbers = (_nibbles(blocks[:, :128], 64) | high).view(np.int8) - np.int8(32)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return numbers, _half(blocks, 208) * scales, None


READERS: dict[Type, Callable[[Blocks], Parts]] = {
    Type.Q8_0: _q8_0,
    Type.Q4_0: _q4_0,
    Type.Q4_1: _q4_1,
    Type.Q5_0: _q5_0,
    Type.Q5_1: _q5_1,
    Type.Q4_K: _q4_k,
    Type.Q5_K: _q5_k,
    Type.Q6_K: _q6_k,
}
