"""@smollm2: the embedded default model, fetched and checked by python/isoprefill/models/sources/pinned.py."""

_BUILD = """
load("@rules_python//python:defs.bzl", "py_library")

# Importable as {module}, whose PATH is the model file.
py_library(
    name = "{name}",
    srcs = ["{module}.py"],
    data = ["{file}"],
    imports = ["."],
    visibility = ["//visibility:public"],
)
"""

_MODULE = '''"""Tells where Bazel put the model file."""

import pathlib

PATH = pathlib.Path(__file__).parent / "{file}"
'''

def _impl(ctx):
    python = ctx.read(ctx.attr._interpreter)
    ctx.report_progress("fetching " + ctx.attr.model)
    result = ctx.execute([python, ctx.path(ctx.attr._fetcher), ctx.attr.model], timeout = 1800)
    if result.return_code:
        fail("\n\n@{}: {}\n".format(ctx.name, result.stderr.strip()))
    cached, module = result.stdout.strip().split("\n")
    file = ctx.path(cached).basename
    ctx.symlink(cached, file)
    ctx.file(module + ".py", _MODULE.format(file = file))

    # The target is called like the repository: @smollm2 is short for @smollm2//:smollm2.
    ctx.file("BUILD", _BUILD.format(name = ctx.attr.target, module = module, file = file))

_pinned_model = repository_rule(
    implementation = _impl,
    attrs = {
        "model": attr.string(mandatory = True, doc = "a name that pinned.py knows"),
        "target": attr.string(mandatory = True),
        "_fetcher": attr.label(default = "//python:isoprefill/models/sources/pinned.py", allow_single_file = True),
        "_interpreter": attr.label(default = "@pypi//:interpreter.txt", allow_single_file = True),
    },
    environ = ["ISOPREFILL_CACHE", "XDG_CACHE_HOME"],
)

def model_repositories():
    """Declares the repositories of pinned models."""
    _pinned_model(name = "smollm2", target = "smollm2", model = "smollm2-135m")
