"""pytest_test: a py_test whose sources pytest runs."""

load("@rules_python//python:defs.bzl", "py_test")

def pytest_test(name, srcs, args = [], data = [], deps = [], **kwargs):
    """Runs pytest on srcs.

    Args:
      name: the target; //tests/engine:isolation for tests/engine/test_isolation.py.
      srcs: the files that hold tests.
      args: more arguments of pytest.
      data: as in py_test.
      deps: as in py_test; pytest and //tests/support are added.
      **kwargs: as in py_test.
    """
    py_test(
        name = name,
        srcs = srcs + ["//bazel:pytest_main.py"],
        main = "//bazel:pytest_main.py",
        args = ["$(rootpath {})".format(src) for src in srcs] + args,
        data = data + ["//:pyproject.toml"],
        deps = deps + [
            "//tests/support",
            "@pypi_tests//pytest",
        ],
        **kwargs
    )
