"""Integrations with other systems. Each module imports the other system only where its docstring says so."""
