"""One line for whatever a damaged file makes of the code that reads it.

What a file says is checked where it is read. But a file can be wrong in more ways than anybody checks for, and the
libraries that read parts of it have errors of their own.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Turns what reading a model's files can raise into a ValueError of one line that names the model.

    A ValueError of one line that names it passes as it is, and so does what no file can cause: a full disk, a signal,
    no memory.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except ValueError as error:
        if "\n" not in str(error) and type(error) is ValueError and str(path) in str(error):
            raise
        raise ValueError(f"{path}: {_one_line(error)}") from error
    except Exception as error:
        raise ValueError(
            f"{path} is damaged: {type(error).__name__}: {_one_line(error)}"
        ) from error
    except BaseException as error:
        # The tokenizers library is in Rust; where that panics, the exception is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{path} is damaged: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
