"""The sizes to which arrays are padded, so that packs of similar size share one compilation."""


def next_power_of_two(at_least: int) -> int:
    """Returns the smallest power of two that is not smaller."""
    return 1 << max(0, int(at_least) - 1).bit_length()


def bucket(count: int, least: int) -> int:
    """Returns a multiple of `least`, itself a power of two: at most 1/8 more than `count`, and few different values.

    Multiples of `least` up to 8 * least, then eight sizes for each doubling.
    """
    step = max(least, 1 << max(0, int(count).bit_length() - 4))
    return max(step, -(-int(count) // step) * step)


def capacity(count: int, usual: int) -> int:
    """Returns room for `count`: as much as packs of this size usually need, else a power of two."""
    return usual if count <= usual else next_power_of_two(count)
