"""The command line: `isoprefill <command> …`. Each command is a module of its own."""
