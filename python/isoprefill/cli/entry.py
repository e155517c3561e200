"""Where a command line begins: answers Ctrl-C from the first moment on.

Imports almost nothing: the commands' own imports take up to seconds, in which Ctrl-C would show where Python was.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # exit status: 128 + SIGINT


def main() -> None:
    """Runs the command that `sys.argv` names; the entry point of the console script."""
    _answer_interrupts()
    from isoprefill.cli.main import main as run_named

    run_named()


def run(command: str) -> None:
    """Runs this command with `sys.argv`'s flags."""
    _answer_interrupts()
    from isoprefill.cli.main import run as run_command

    run_command(command)


def end_interrupted() -> NoReturn:
    """Ends the process with one line, whatever its threads are doing."""
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
    os.write(2, b"isoprefill: interrupted\n")
    os._exit(INTERRUPTED)


def _answer_interrupts() -> None:
    def end(number: int, frame: FrameType | None) -> None:
        end_interrupted()

    # Where a caller ignores the signal, as nohup and shell jobs do, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)
