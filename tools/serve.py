"""bazel run //tools:serve -- --port 30000."""

import callers_directory
from isoprefill.cli.entry import run

if __name__ == "__main__":
    callers_directory.enter()
    run("serve")
