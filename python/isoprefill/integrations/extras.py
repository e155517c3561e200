"""What to install for an integration whose packages are missing."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Imports of another system go inside: where a package is missing, the error says what to install.

    Args:
        extra: of the wheel, which has the packages.

    Raises:
        ModuleNotFoundError: one of them is not installed; names it, and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        raise ModuleNotFoundError(
            f"{package} is not installed: pip install 'isoprefill[{extra}]'", name=error.name
        ) from None
