"""Reads API keys from files."""

from isoprefill.cli.text_files import read_text


def read_api_key(name: str) -> str:
    """Returns the key in a file, without white space around it.

    Raises:
        ValueError: the file cannot be read, or holds nothing else.
    """
    try:
        key = read_text(name).strip()
    except ValueError as error:
        raise ValueError(f"cannot read the API key: {error}") from error
    if not key:
        raise ValueError(f"the API key is empty: {name} contains only white space")
    return key
