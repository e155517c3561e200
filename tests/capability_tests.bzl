"""capability_tests: a target for each test file of a folder, or for several files that prove one capability."""

load("//bazel:pytest.bzl", "pytest_test")

_SIZES = ["small", "medium", "large", "enormous"]

def capability_tests(deps, exceptions = {}, together = {}, suites = {}):
    """Makes //tests/FOLDER:NAME of every test_NAME.py.

    Args:
      deps: what the tests of the folder import.
      exceptions: for each NAME that needs it a dict of `size` (default "medium"), `deps` (instead of the folder's),
        `data`, `tags`, `shard_count`, and `full`: True makes full_NAME too, which takes every case instead of a pairwise
        cover and runs only when it is named.
      together: for each capability that has several test files, under its name the NAMEs of those that run in one process:
        starting one, and importing jax, PyTorch and transformers, takes up to ten seconds. Each is a target of its own, too,
        which runs only when it is named. Those of them that have a full_NAME also make a full_CAPABILITY.
      suites: for each capability whose test files run apart, under its name the NAMEs of these files. Those of them that have
        a full_NAME also make a suite full_SUITE.
    """
    names = [src[len("test_"):-len(".py")] for src in native.glob(["test_*.py"])]
    joined = [member for members in together.values() for member in members]
    for name in list(exceptions) + joined:
        if name not in names:
            fail("{} is named, but there is no test_{}.py".format(name, name))
    attributes_of = {name: _attributes(name, deps, exceptions.get(name, {})) for name in names}
    for name, attributes in attributes_of.items():
        if name in joined:
            attributes = dict(attributes, tags = ["manual"])
        pytest_test(name = name, **attributes)
        if exceptions.get(name, {}).get("full"):
            _full(name, attributes)
    for capability, members in together.items():
        pytest_test(name = capability, **_joined([attributes_of[member] for member in members]))
        full = [attributes_of[member] for member in members if exceptions.get(member, {}).get("full")]
        if full:
            _full(capability, _joined(full))
    for suite, members in suites.items():
        native.test_suite(name = suite, tests = [":" + member for member in members])
        full = [":full_" + member for member in members if exceptions.get(member, {}).get("full")]
        if full:
            native.test_suite(name = "full_" + suite, tags = ["manual"], tests = full)

def _full(name, attributes):
    attributes = {key: value for key, value in attributes.items() if key not in ["shard_count", "size", "tags"]}
    pytest_test(
        name = "full_" + name,
        size = "enormous",
        env = {"ISOPREFILL_FULL_MATRIX": "1"},
        tags = ["manual"],
        **attributes
    )

def _attributes(name, deps, special):
    attributes = {"data": [], "deps": deps, "size": "medium", "srcs": ["test_{}.py".format(name)]}
    return dict(attributes, **{key: value for key, value in special.items() if key != "full"})

def _joined(several):
    joined = {"size": _SIZES[max([_SIZES.index(one["size"]) for one in several])]}
    for key in ["data", "deps", "srcs"]:
        joined[key] = sorted({value: None for one in several for value in one[key]})
    return joined
