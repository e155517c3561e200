"""Layouts, masks and schedules of isolated multi-item prefill: the C++ of csrc/ behind NumPy arrays.

T rows, S columns, N items, R requests; docs/design.md defines the terms; the headers in csrc/ explain the arrays.
Attributes are read-only views that keep their object alive; what a method returns is the caller's own. Results
are not copied; lengths and tokens are, on their way in. Bad values raise ValueError naming the argument, its value
and the limit; too large a result raises MemoryError. The GIL is released while C++ works.
"""

import enum
from collections.abc import Sequence
from typing import Any, Final, Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

_Int32 = npt.NDArray[np.int32]
_Ints = Sequence[int] | npt.NDArray[np.integer[Any]]
_Delimiter = Literal["none", "hidden", "prefix_first"]

class FlashInferParams(TypedDict):
    prefix_len_ptr: npt.NDArray[np.uint32]  # [R]
    token_pos_in_items_ptr: npt.NDArray[np.uint16]  # [R, token_pos_in_items_len]
    token_pos_in_items_len: int
    max_item_len_ptr: npt.NDArray[np.uint16]  # [R]

class Layout:
    """What every row and column of a pack is."""

    num_rows: Final[int]
    num_columns: Final[int]
    window: Final[int | None]

    # [T]
    segment_ids: Final[_Int32]
    request_ids: Final[_Int32]
    positions: Final[_Int32]
    row_columns: Final[_Int32]
    # [4, T]: prefix_begin, prefix_end, own_begin, own_end, as if there were no window
    row_intervals: Final[_Int32]

    # [S]
    key_segment_ids: Final[_Int32]
    key_request_ids: Final[_Int32]
    column_rows: Final[_Int32]

    # [N]
    readout_rows: Final[_Int32]
    item_first_rows: Final[_Int32]
    item_lens: Final[_Int32]
    item_requests: Final[_Int32]
    item_context_rows: Final[_Int32]

    # [R + 1]
    request_rows: Final[_Int32]
    def dense_mask(self) -> npt.NDArray[np.bool_]:
        """[T, S]: True where the row sees the column."""

    def packed_bits(self) -> npt.NDArray[np.uint8]:
        """FlashInfer's packed custom mask, request after request."""

    def packed_bit_offsets(self) -> npt.NDArray[np.int64]:
        """[R + 1]: where each request's bytes of packed_bits() begin and end."""

    def flashinfer_params(self) -> FlashInferParams:
        """FlashInfer's parameters of multi-item scoring, under the names of its plan()."""

    def choose_local_block(self, *, block_q: int, block_kv: int, candidates: Sequence[int]) -> int:
        """The local_block among the candidates for which these items compute the fewest pairs."""

    def aligned_schedule(self, *, block_q: int, block_kv: int, local_block: int) -> AlignedSchedule:
        """The schedule of the XLA back end, aligned to requests and items."""

    def tile_schedule(self, **sizes: Unpack[TileSizes]) -> TileSchedule:
        """The schedule of the TPU kernel."""

class AlignedSchedule:
    """Tiles and local blocks that cover every visible pair once; see csrc/aligned_schedule.h."""

    # [5, visits]: row_begin, row_end, column_begin, column_end, kind
    tile_visits: Final[_Int32]
    # [T]
    tile_own_end: Final[_Int32]
    # [3, blocks]: first row, first column, length
    local_blocks: Final[_Int32]
    # [T]
    row_slot: Final[_Int32]

class TileSizes(TypedDict, total=False):
    """How a tile schedule cuts rows and columns; csrc/tile_schedule.h explains them and has the defaults."""

    block_q: int
    block_kv: int
    unit_q: int
    unit_kv: int
    unit_group: int
    window_keys: int
    full_keys: int

class TileSchedule:
    """What each Q tile of the TPU kernel visits; see csrc/tile_schedule.h."""

    padded_columns: Final[int]
    steps: Final[_Int32]
    units: Final[_Int32]
    row_bounds: Final[_Int32]
    tiles: Final[_Int32]

def build_layout(
    *,
    prefix_lens: _Ints,
    item_lens: Sequence[_Ints],
    delimiters: Sequence[_Delimiter] | None = None,
    cached_prefix: Sequence[bool] | None = None,
    causal: Sequence[bool] | None = None,
    shared_lens: Sequence[Sequence[int]] | None = None,
    pad_to: int | None = None,
    pad_columns_to: int | None = None,
    window: int | None = None,
) -> Layout:
    """The layout of a pack.

    The arguments but the last three hold one value, or one sequence of lengths, a request. By default delimiters are
    "none", no prefix is cached and no request is causal.
    """

def tile_schedule_of_intervals(
    row_intervals: _Int32, num_columns: int, **sizes: Unpack[TileSizes]
) -> TileSchedule:
    """The schedule of the TPU kernel for rows that are not of a Layout, such as those of a chunk of a request.

    Args:
        row_intervals: [4, T]: prefix_begin, prefix_end, own_begin, own_end, half open. A row's own columns follow its
            prefix, and neither begin nor end before those of an earlier row. Rows that see nothing may stand anywhere.
    """

def check_tile_sizes(**sizes: Unpack[TileSizes]) -> None:
    """Raises ValueError for sizes that no tile schedule can have: names the size, its value and the limit."""

# What the arrays of a TileSchedule are read by; csrc/tile_schedule.h explains each.
LANES: int
KEY_GRANULE: int
ANCHOR_KEYS: int
KEY_END_SHIFT: int

class StepField(enum.IntEnum):
    """Rows of TileSchedule.steps."""

    Q_TILE = ...
    KEY_START = ...
    FLAGS = ...
    KEY_RANGE = ...
    ANCHORS = ...
    WHOLE_UNITS = ...
    MASKED_UNITS = ...
    UNITS_END = ...

class StepFlag(enum.IntFlag):
    """Bits of StepField.FLAGS."""

    FIRST = ...
    LAST = ...
    FULL = ...
    WINDOWS = ...

class TileField(enum.IntEnum):
    """Columns of TileSchedule.tiles; the last is the first of the windows'."""

    LOCAL_START = ...
    WINDOWS = ...

class WindowField(enum.IntEnum):
    """What TileSchedule.tiles says of each 128 rows."""

    START = ...
    END = ...

class UnitBits(enum.IntEnum):
    """Where an entry of TileSchedule.units keeps what; masks are for after the shift."""

    ROW_BLOCK_MASK = ...
    KEY_SHIFT = ...
    KEY_MASK = ...
    INTERVAL_SHIFT = ...
    INTERVAL_MASK = ...
    LENGTH_SHIFT = ...
    LENGTH_MASK = ...

class UnitInterval(enum.IntEnum):
    """Which of a row's intervals a unit is of."""

    FAR = ...
    NEAR = ...
    NOTHING = ...

class RowBound(enum.IntEnum):
    """Rows of TileSchedule.row_bounds."""

    FAR_BEGIN = ...
    FAR_END = ...
    NEAR_BEGIN = ...
    NEAR_END = ...

def request_from_tokens(
    *, tokens: _Ints, delimiter_id: int, delimiter: Literal["hidden", "prefix_first"]
) -> tuple[int, npt.NDArray[np.int64]]:
    """(prefix_len, item_lens) of packed tokens `q <d> i1 <d> … iN <d>`."""

def ffi_targets() -> dict[str, Any]:
    """XLA FFI handlers for the CPU by name, as jax.ffi.register_ffi_target takes them."""

MAX_HEAD_DIM: int  # of the CPU attention

def available_instructions() -> list[str]:
    """What this CPU has, the fastest last.

    Of "portable", "avx2", "avx512", "avx512_bf16", "amx", "neon" and "neon_bf16".
    """

def best_instructions() -> str:
    """Those that are used: the fastest, or what the environment variable ISOPREFILL_INSTRUCTIONS limits them to.

    Raises ValueError if that names no instructions.
    """

PANEL_COLUMNS: int  # of packed weights, csrc/packed_weights.h
INNER_STEP: int
SCALED_INTEGERS: int  # instead of a number of parts
SCALED_RUN: int  # elements of a column with one scale
SCALED_STEP_BYTES: int  # of 32 rows of a panel

def pack_weights(weights: npt.NDArray[Any], packed: npt.NDArray[Any]) -> None:
    """Packs weights [M, N] into an array of M / 16 panels (rounded up) of 16 * N elements (N rounded up to 32).

    Both are float32, or both uint16 (bfloat16 as its bits).
    """

def unpack_weights(packed: npt.NDArray[Any], weights: npt.NDArray[Any], parts: int = 0) -> None:
    """The reverse; with `parts`, weights are float32 and packed holds so many uint16 of each."""

def pack_scaled_integers(
    integers: npt.NDArray[np.int8],
    scales: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.float32],
    packed: npt.NDArray[np.uint8],
) -> None:
    """Packs integers [M, N] with scales [M, N / run], and offsets of the same shape or empty."""

def parts_of_panels(packed: npt.NDArray[np.float32]) -> int:
    """How many bfloat16 each packed float32 is the sum of, 1 or 2; 0 if it takes more, or tiles cannot take them."""

def split_panels(packed: npt.NDArray[np.float32], parts: npt.NDArray[np.uint16]) -> None:
    """Writes packed float32 [panels, steps, 512] as parts, uint16 of one or two times the size; also in place."""

def multiplies_parts() -> bool:
    """Whether float32 is multiplied in tiles of bfloat16 (`best_instructions`, ISOPREFILL_SPLIT_FLOAT32)."""
