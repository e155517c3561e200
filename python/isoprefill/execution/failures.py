"""Failures that are no faults of the program: too little memory, no such device, a model without numbers.

Importing this does not import jax.
"""

from isoprefill.request.errors import MissingLogprobError

_NO_DEVICE = "Unable to initialize backend"  # JAX_PLATFORMS names what is not there
_EXHAUSTED = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


class NotEnoughMemoryError(MemoryError):
    """There is too little memory; the message says for what, and how much it needs."""


def failure_of(error: BaseException) -> str | None:
    """Returns why an engine failed, for people; None if the exception is not of this kind."""
    if isinstance(error, MissingLogprobError | NotEnoughMemoryError):
        return str(error)
    if is_memory(error):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    if isinstance(error, RuntimeError) and str(error).startswith(_NO_DEVICE):
        return f"no device: {error}"
    return None


def is_memory(error: BaseException) -> bool:
    """Whether memory was refused, by Python, NumPy, C++ or a device."""
    if isinstance(error, MemoryError):
        return True
    # jax's class has moved between releases.
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and any(
        word in str(error) for word in _EXHAUSTED
    )


def shown_bytes(number: int) -> str:
    """Returns a number of bytes as people write it, rounded up."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if number >= size:
            return f"{-(-number * 10 // size) / 10:g} {unit}"
    return f"{number} bytes"
