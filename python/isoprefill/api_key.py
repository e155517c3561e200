"""The API key that servers want as a bearer token. Importing this does not import jax."""

from pathlib import Path


def check_api_key(key: str) -> None:
    """Raises ValueError unless the key can travel in a header. The message does not hold it."""
    if not key:
        raise ValueError("the API key is empty")
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise ValueError(
            "the API key must be printable ASCII without white space around it: it travels in a header"
        )


def read_api_key(path: Path) -> str:
    """The key in a file, without white space around it.

    Raises:
        ValueError: the file cannot be read, or holds nothing else.
    """
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the API key from {path}: {error}") from error
    if not key:
        raise ValueError(f"the API key is empty: {path} holds nothing but white space")
    return key
