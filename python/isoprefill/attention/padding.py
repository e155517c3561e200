"""The sizes to which the rows of packs and read-outs are padded, few so that few programs are compiled."""

from isoprefill_pallas.padding import bucket, next_power_of_two

__all__ = ["bucket_size", "next_power_of_two"]

LEAST_ROWS = 64  # where XLA's CPU matmul starts to treat every row alike


def bucket_size(length: int) -> int:
    """Returns the padded length that `length` tokens get: at most 1/8 more, at least 64, few different values.

    Multiples of 64 up to 512, then eight sizes for each doubling. No tokens get no rows.
    """
    return bucket(length, LEAST_ROWS) if length else 0
