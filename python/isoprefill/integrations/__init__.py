"""Links to other systems. Each module imports the system that it links to only where its docstring says so."""
