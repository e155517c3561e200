"""What a configuration's sliding window means for the positions that a model has."""

from collections.abc import Sequence


def effective_windows(
    window: int | None, sliding: Sequence[bool], max_positions: int
) -> tuple[int | None, tuple[bool, ...] | None]:
    """Returns `sliding_window` and `windowed_layers` of `ModelConfig`: no window where none hides a position.

    Args:
        window: the file's.
        sliding: which layers it is for.
        max_positions: positions that the model has.
    """
    if window is None or not any(sliding) or window >= max_positions:
        return None, None
    return window, None if all(sliding) else tuple(sliding)
