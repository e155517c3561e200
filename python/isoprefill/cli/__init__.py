"""The command line: `isoprefill <command> …`. Each command is a module of its own."""

from isoprefill.cli.main import main

__all__ = ["main"]
