"""What the TPU kernel costs without a TPU: compiled by libtpu, counted by the compiler's own schedule. Not in the wheel."""
