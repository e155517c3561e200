"""What the steps take and keep: packs, computed prefixes, and what is asked of hidden states.

Letters, here and in the steps: D lanes, T rows and S columns of a pack, L layers, P columns of a cached prefix, Hkv
key and value heads, Hd head_dim, E hidden size, M rows asked for, K tokens at each.
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int32

from isoprefill.attention.layout import Ints, PackedLayout


class PackInputs(NamedTuple):
    """The rows of a pack."""

    token_ids: Int32[Ints, "*D T"]
    layout: PackedLayout


class PrefixState(NamedTuple):
    """A prefix that has been computed; columns after its tokens are padding that nobody sees."""

    keys: Float[Array, "L P Hkv Hd"]
    values: Float[Array, "L P Hkv Hd"]
    last_hidden: Float[Array, "E"]


class ReadoutInputs(NamedTuple):
    """Which log-probabilities are asked for."""

    rows: Int32[Ints, "*D M"]
    num_rows: Int32[Ints, "*D"]
    token_ids: Int32[Ints, "*D M K"]
