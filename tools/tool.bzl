"""tool: a program of tools/."""

load("@rules_python//python:defs.bzl", "py_binary")

def tool(name, deps, srcs = None, **kwargs):
    """Makes a py_binary that can import the modules of tools/.

    Args:
      name: the target.
      deps: as in py_binary; //tools:shared is added.
      srcs: as in py_binary; by default NAME.py.
      **kwargs: as in py_binary.
    """
    py_binary(
        name = name,
        srcs = srcs or [name + ".py"],
        deps = deps + ["//tools:shared"],
        **kwargs
    )
