"""bazel run //tools:serve -- --port 30000."""

from isoprefill.cli.main import run

if __name__ == "__main__":
    run("serve")
