"""The directory from which the user called a tool."""

import os
from collections.abc import Sequence

from absl import app


def enter(argv: Sequence[str] = ()) -> None:
    """Makes it the working directory, so that flags may name files relative to it.

    `bazel run` starts programs in a tree of its own and leaves the user's directory in the environment.

    Args:
        argv: what absl left of the command line of a tool that takes flags only: the program's name.

    Raises:
        app.UsageError: there is more.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
