"""Runs pytest as a Bazel test: honours --test_filter, sharding, the XML report and --config=coverage."""

import os
import pathlib
import sys

import pytest


class Shard:
    """Keeps every n-th test: Bazel's TEST_TOTAL_SHARDS and TEST_SHARD_INDEX."""

    def __init__(self, index: int, total: int):
        self.index = index
        self.total = total

    def pytest_collection_modifyitems(self, config, items):
        """Drops the tests of the other shards."""
        mine = items[self.index :: self.total]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
        items[:] = mine


def run(arguments: list[str]) -> int:
    """Runs pytest; returns its exit code."""
    environment = os.environ
    options = ["-ra", "--color=no", "-p", "no:cacheprovider", "--import-mode=importlib"]
    if xml := environment.get("XML_OUTPUT_FILE"):
        options.append(f"--junitxml={xml}")
    if only := environment.get("TESTBRIDGE_TEST_ONLY"):
        options.append(f"-k={only}")
    plugins = []
    if "TEST_TOTAL_SHARDS" in environment:
        plugins.append(
            Shard(int(environment["TEST_SHARD_INDEX"]), int(environment["TEST_TOTAL_SHARDS"]))
        )
        pathlib.Path(environment["TEST_SHARD_STATUS_FILE"]).touch()
    code = pytest.main(options + arguments, plugins=plugins)
    # A shard may be left without a test; a whole target may not.
    return 0 if plugins and code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code)


def run_with_coverage(arguments: list[str]) -> int:
    """Runs pytest and leaves the lines that were run in the test's outputs."""
    import coverage

    data = pathlib.Path(os.environ["TEST_UNDECLARED_OUTPUTS_DIR"]) / "python.coverage"
    measured = coverage.Coverage(data_file=data, source_pkgs=["isoprefill", "isoprefill_pallas"])
    measured.set_option("run:relative_files", True)
    measured.start()
    try:
        return run(arguments)
    finally:
        measured.stop()
        measured.save()


if __name__ == "__main__":
    sys.exit((run_with_coverage if os.environ.get("ISOPREFILL_COVERAGE") else run)(sys.argv[1:]))
