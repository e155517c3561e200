"""The directory from which the user called a tool."""

import os

from absl import app


def enter(argv: list[str]) -> None:
    """Makes it the working directory, so that flags may name files relative to it.

    `bazel run` starts programs in a tree of its own and leaves the user's directory in the environment.

    Args:
        argv: what absl left of the command line: the program's name, as tools take flags only.

    Raises:
        app.UsageError: there is more.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
