"""Estimates what the TPU kernel costs without a TPU: libtpu compiles, its own schedule is counted. Not in the wheel."""
