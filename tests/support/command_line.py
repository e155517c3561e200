"""Runs a command of `isoprefill` in this process: starting one of its own costs seconds."""

import contextlib
import dataclasses
import io
import sys
from collections.abc import Iterator
from types import ModuleType
from unittest import mock

from absl import flags

from isoprefill.cli.main import execute


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


class _Stream(io.TextIOWrapper):
    """Standard output or error in memory, on a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined]


def run(command: ModuleType, *arguments: str, stdin: bytes = b"", terminal: bool = False) -> Done:
    """Runs a command with these arguments.

    Args:
        command: its module. Commands that share a flag cannot be imported into one process.
        *arguments: flags and others.
        stdin: what it reads.
        terminal: whether standard output is one.
    """
    out, err = _Stream(terminal), _Stream(False)
    read = io.TextIOWrapper(io.BytesIO(stdin))
    with (
        parsed_flags(command, arguments) as rest,
        mock.patch.multiple(sys, stdin=read, stdout=out, stderr=err),
    ):
        status = execute(command, rest)
        return Done(status, out.text, err.text)


@contextlib.contextmanager
def parsed_flags(command: ModuleType, arguments: tuple[str, ...]) -> Iterator[list[str]]:
    """Yields what the flags leave of a command line; afterwards the flags have their earlier values."""
    values = flags.FLAGS.flag_values_dict()
    try:
        yield flags.FLAGS([command.__name__, *arguments])
    finally:
        flags.FLAGS.unparse_flags()
        for name, value in values.items():
            flags.FLAGS[name].value = value
