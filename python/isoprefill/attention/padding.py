"""The sizes to which arrays are padded, few so that few programs are compiled."""


def bucket_size(length: int) -> int:
    """Returns the padded length that `length` tokens get: at most 1/8 more, at least 64, few different values.

    Multiples of 64 up to 512, then eight sizes for each doubling, so that a service compiles a bounded number
    of programs. 64 is also where XLA's CPU matmul starts to treat every row alike.
    """
    step = max(64, 1 << max(0, length.bit_length() - 4))
    return -(-length // step) * step


def next_power_of_two(at_least: int) -> int:
    """Returns the smallest power of two that is not smaller."""
    return 1 << max(0, at_least - 1).bit_length()
