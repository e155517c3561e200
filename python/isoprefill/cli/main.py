"""`isoprefill <command> [flags]`: finds the command and runs it."""

import functools
import importlib
import logging
import sys
from types import ModuleType

from absl import app, flags

import isoprefill
from isoprefill.models.pinned import FetchError

COMMANDS = {
    "audit": "tell whether a /v1/score server isolates items",
    "score": "score items against a query",
    "serve": "serve /v1/score over HTTP",
}


def main() -> None:
    """Entry point of the console script."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "--version":
        print(f"isoprefill {isoprefill.__version__}")
        return
    if command not in COMMANDS:
        lines = "\n".join(f"  {name:10} {purpose}" for name, purpose in COMMANDS.items())
        wanted = command in ("", "help", "--help", "-h")
        if not wanted:
            print(f"isoprefill: unknown command {command!r}", file=sys.stderr)
        print(
            f"usage: isoprefill <command> [flags], isoprefill --version\n{lines}",
            file=sys.stdout if wanted else sys.stderr,
        )
        sys.exit(0 if wanted else 2)
    run(command, sys.argv[1:])


def run(command: str, argv: list[str] | None = None) -> None:
    """Runs one command; `argv` begins with its name."""
    module = importlib.import_module(f"isoprefill.cli.{command}")
    argv = sys.argv if argv is None else argv
    if {"--help", "-h"} & set(argv[1:]):
        print(f"{module.__doc__}{flags.FLAGS.module_help(module)}")
        return
    # At INFO, which absl shows, jax logs every kind of device that is absent, and httpx every request.
    for library in ("jax", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    if command != "serve":  # no log beside a table; a flag of the caller's overrides this one
        argv = [argv[0], "--verbosity=-1", *argv[1:]]

    def parse(args: list[str]) -> list[str]:
        try:
            return flags.FLAGS(args)
        except flags.Error as error:
            print(f"{command}: {error} (--help lists the flags)", file=sys.stderr)
            sys.exit(2)

    app.run(functools.partial(execute, module), argv=argv, flags_parser=parse)


def execute(command: ModuleType, argv: list[str]) -> int:
    """Runs a command whose flags are parsed; returns the exit status.

    Bad input is one line on stderr and exit status 2: a command raises ValueError, OSError or FetchError for it.

    Args:
        command: its module.
        argv: what the flags leave of the command line: a name and arguments.
    """
    try:
        status: int = command.main(argv[1:])
    except (ValueError, OSError, FetchError) as error:
        print(f"{command.__name__.rpartition('.')[2]}: {error}", file=sys.stderr)
        return 2
    return status
