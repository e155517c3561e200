"""bazel run //tools:score -- --query "The capital of France is" --item " Paris" --item " London"."""

from isoprefill.cli.main import run

if __name__ == "__main__":
    run("score")
