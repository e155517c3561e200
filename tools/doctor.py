"""bazel run //tools:doctor."""

import callers_directory
from isoprefill.cli.entry import run

if __name__ == "__main__":
    callers_directory.enter()
    run("doctor")
