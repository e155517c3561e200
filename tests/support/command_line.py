"""Runs a command of `isoprefill` in this process: starting one of its own costs seconds."""

import dataclasses
import io
import sys
from types import ModuleType
from unittest import mock

from isoprefill.cli.failures import guarded
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
        command: its module.
        *arguments: flags and others.
        stdin: what it reads.
        terminal: whether standard output is one.
    """
    out, err = _Stream(terminal), _Stream(False)
    read = io.TextIOWrapper(io.BytesIO(stdin))
    with mock.patch.multiple(sys, stdin=read, stdout=out, stderr=err):
        status = status_of(command, *arguments)
        return Done(status, out.text, err.text)


def status_of(command: ModuleType, *arguments: str) -> int:
    """Runs a command with these arguments; afterwards its flags have their defaults."""
    name = command.__name__.rpartition(".")[2]
    try:
        return guarded(name, lambda: execute(command, command.FLAGS.parse([name, *arguments])))
    finally:
        command.FLAGS.values.unparse_flags()
