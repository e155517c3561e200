"""The directory from which the user called a tool."""

import os


def enter() -> None:
    """Makes it the working directory, so that flags may name files relative to it.

    `bazel run` starts programs in a tree of its own and leaves the user's directory in the environment.
    """
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
