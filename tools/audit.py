"""bazel run //tools:audit -- --server-url http://127.0.0.1:30000."""

import callers_directory
from isoprefill.cli.entry import run

if __name__ == "__main__":
    callers_directory.enter()
    run("audit")
