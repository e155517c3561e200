"""The repositories of pypi.bzl and model.bzl, for MODULE.bazel (a file of its own: Bazel 4 knows no module_extension)."""

load(":model.bzl", "model_repositories")
load(":pypi.bzl", "pypi_repositories")

def _impl(_ctx):
    pypi_repositories()
    model_repositories()

repositories = module_extension(implementation = _impl)
