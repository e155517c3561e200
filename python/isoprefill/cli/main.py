"""`isoprefill <command> [flags]`: finds the command and runs it."""

import functools
import importlib
import logging
import os
import sys
from types import ModuleType

from absl import app

import isoprefill
from isoprefill.cli.command_flags import CommandFlags
from isoprefill.cli.entry import INTERRUPTED
from isoprefill.cli.failures import WRONG_USE, check_limits, guarded, require_output
from isoprefill.cli.flag_help import help_text
from isoprefill.cli.interrupts import acknowledge, raise_interrupts
from isoprefill.cli.variables import variable_notes

COMMANDS = {
    "audit": "tell whether a /v1/score server isolates items",
    "batch": "score tables offline, on one machine or many",
    "doctor": "check that this machine computes what it should",
    "score": "score items against a query",
    "serve": "serve /v1/score over HTTP",
}
# absl's own show every flag of every library.
_HELP = {
    f"{dashes}{name}" for dashes in ("-", "--") for name in ("h", "help", "helpfull", "helpshort")
}


def main() -> None:
    """Runs the command that `sys.argv` names."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in COMMANDS:
        run(command, sys.argv[1:])
    sys.exit(guarded("isoprefill", functools.partial(_usage, command)))


def run(command: str, argv: list[str] | None = None) -> None:
    """Runs one command and ends the process; `argv` begins with the command's name."""
    argv = sys.argv if argv is None else argv
    try:
        sys.exit(guarded(command, functools.partial(_run, command, argv)))
    except SystemExit as end:
        # What was interrupted may still be computing, and crash when Python takes its memory away. Only Ray, which has
        # processes to end, wants Python's own end.
        if end.code == INTERRUPTED and command != "batch":
            os._exit(INTERRUPTED)
        raise
    finally:
        acknowledge()


def execute(command: ModuleType, argv: list[str]) -> int:
    """Runs a command whose flags are parsed; returns the exit status.

    Args:
        command: its module. It raises ValueError for wrong use; docs/operations.md lists the statuses.
        argv: what the flags leave of the command line: a name and arguments.
    """
    name = command.__name__.rpartition(".")[2]
    return guarded(name, functools.partial(command.main, argv[1:]))


def _run(command: str, argv: list[str]) -> int:
    check_limits()
    module = importlib.import_module(f"isoprefill.cli.{command}")
    own: CommandFlags = module.FLAGS
    if any(argument.partition("=")[0] in _HELP for argument in argv[1:]):
        require_output()
        print(help_text(module.__doc__ or "", own), end="")
        return 0
    for note in variable_notes(os.environ, command, {flag.name for flag in own}):
        print(f"{command}: note: {note}", file=sys.stderr)
    # At INFO, which absl shows, jax logs every kind of device that is absent, and httpx every request.
    for library in ("jax", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    if command != "serve":  # no log beside a table; a flag of the caller's overrides this one
        argv = [argv[0], "--verbosity=-1", *argv[1:]]
        raise_interrupts()  # the server's event loop answers signals
    app.run(
        functools.partial(execute, module),
        argv=argv,
        flags_parser=functools.partial(own.parse, absl=True),
    )
    raise AssertionError("absl ends the process")


def _usage(command: str) -> int:
    require_output()
    if command == "--version":
        print(f"isoprefill {isoprefill.__version__}")
        return 0
    if command == "help" and sys.argv[2:3] and sys.argv[2] in COMMANDS:
        run(sys.argv[2], [sys.argv[2], "--help"])
    lines = "\n".join(f"  {name:10} {purpose}" for name, purpose in COMMANDS.items())
    wanted = command in ("", "help", *_HELP)
    if not wanted:
        print(f"isoprefill: unknown command {command!r}", file=sys.stderr)
    print(
        f"usage: isoprefill <command> [flags], isoprefill --version\n{lines}\n"
        "isoprefill <command> --help lists its flags.",
        file=sys.stdout if wanted else sys.stderr,
    )
    return 0 if wanted else WRONG_USE
