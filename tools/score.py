"""bazel run //tools:score -- --query "The capital of France is" --item " Paris" --item " London"."""

import callers_directory
from isoprefill.cli.entry import run

if __name__ == "__main__":
    callers_directory.enter()
    run("score")
