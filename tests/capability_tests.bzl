"""capability_tests: a target for each test file of a folder."""

load("//bazel:pytest.bzl", "pytest_test")

def capability_tests(deps, exceptions = {}, suites = {}):
    """Makes //tests/FOLDER:NAME of every test_NAME.py.

    Args:
      deps: what the tests of the folder import.
      exceptions: for each NAME that needs it a dict of `size` (default "medium"), `deps` (instead of the folder's),
        `data`, `shard_count`, and `full`: True makes full_NAME too, which takes every case instead of a pairwise
        cover and runs only when it is named.
      suites: for each capability that has several test files, under its name the NAMEs of these files. Those of them that have
        a full_NAME also make a suite full_SUITE.
    """
    names = [src[len("test_"):-len(".py")] for src in native.glob(["test_*.py"])]
    for name in exceptions:
        if name not in names:
            fail("exceptions names {}, but there is no test_{}.py".format(name, name))
    for name in names:
        special = dict(exceptions.get(name, {}))
        full = special.pop("full", False)
        size = special.pop("size", "medium")
        attributes = {
            "data": special.pop("data", []),
            "deps": special.pop("deps", deps),
            "srcs": ["test_{}.py".format(name)],
        }
        pytest_test(name = name, size = size, **dict(attributes, **special))
        if full:
            pytest_test(
                name = "full_" + name,
                size = "enormous",
                env = {"ISOPREFILL_FULL_MATRIX": "1"},
                tags = ["manual"],
                **attributes
            )
    for suite, members in suites.items():
        native.test_suite(name = suite, tests = [":" + member for member in members])
        full = [":full_" + member for member in members if exceptions.get(member, {}).get("full")]
        if full:
            native.test_suite(name = "full_" + suite, tags = ["manual"], tests = full)
