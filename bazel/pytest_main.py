"""Runs pytest as a Bazel test; honours --test_filter, sharding, the XML report and --config=coverage."""

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
        mine = items[self.index :: self.total]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
        items[:] = mine


def run(arguments: list[str]) -> int:
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


def record_coverage() -> None:
    """Records the lines that this process and those it starts run, in the test's outputs."""
    import coverage

    outputs = pathlib.Path(os.environ["TEST_UNDECLARED_OUTPUTS_DIR"])
    site = pathlib.Path(os.environ["TEST_TMPDIR"]) / "coverage_site"
    site.mkdir()
    config = site / "coveragerc"
    config.write_text(f"""[run]
data_file = {outputs / "python.coverage"}
include = */python/isoprefill/*, */python/isoprefill_sglang_jax/*, */pallas/*
parallel = true
sigterm = true
""")
    # Python imports this module in every process that it starts with this path.
    (site / "sitecustomize.py").write_text("import coverage\n\ncoverage.process_startup()\n")
    os.environ["COVERAGE_PROCESS_START"] = str(config)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, str(site))
    coverage.process_startup()


if __name__ == "__main__":
    if os.environ.get("ISOPREFILL_COVERAGE"):
        record_coverage()
    sys.exit(run(sys.argv[1:]))
