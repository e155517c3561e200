"""Reads text from files and from standard input, the same whatever wrote it."""

import codecs
import sys
from pathlib import Path

STDIN = "-"
MAX_BYTES = 1 << 30  # of a file

# The longer mark comes first: UTF-32's little-endian one begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def read_text(name: str) -> str:
    r"""Returns a file's text, without a byte order mark and without one line end at its end; line ends are "\n".

    Reads UTF-8, and UTF-16 and UTF-32 if they begin with a byte order mark.

    Args:
        name: the file's path; "-" is standard input.

    Raises:
        ValueError: it cannot be read, is too large, or is not text in one of these encodings; names it.
    """
    content = _read(name)
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    if not mark and (guess := _unmarked(content)):
        raise ValueError(
            f"{shown(name)} looks like {guess} without a byte order mark: convert it to UTF-8 first "
            f"(iconv -f {guess} -t UTF-8)"
        )
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        place = error.start + len(mark)
        raise ValueError(
            f"{shown(name)} is not {encoding.upper()} text: byte {place}, line {content[:place].count(10) + 1}; "
            "convert it to UTF-8 (iconv -f its encoding -t UTF-8)"
        ) from None
    return text.replace("\r\n", "\n").removesuffix("\n")


def shown(name: str) -> str:
    """Returns what messages call a file."""
    return "standard input" if name == STDIN else name


def _read(name: str) -> bytes:
    try:
        if name == STDIN:
            if sys.stdin is None:
                raise ValueError("standard input is closed")
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {shown(name)}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{shown(name)} has more than {MAX_BYTES} bytes: split it")
    return content


def _unmarked(content: bytes) -> str | None:
    """Recognises UTF-16 by the zero bytes that Latin letters have in it."""
    start = content[:1024]
    for encoding, zeros, others in (
        ("UTF-16LE", start[1::2], start[::2]),
        ("UTF-16BE", start[::2], start[1::2]),
    ):
        if len(zeros) > 1 and zeros.count(0) > 0.7 * len(zeros) and others.count(0) == 0:
            return encoding
    return None
