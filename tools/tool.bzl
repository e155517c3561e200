"""tool and tool_in_folder: programs of tools/."""

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

def tool_in_folder(name, deps, **kwargs):
    """Makes a tool of all modules of a folder, which main.py begins, and a filegroup of them, `sources`.

    Args:
      name: the target; that of the folder.
      deps: as in tool.
      **kwargs: as in py_binary.
    """
    srcs = native.glob(["*.py"])
    tool(name = name, srcs = srcs, main = "main.py", deps = deps, **kwargs)
    native.filegroup(name = "sources", srcs = srcs)
