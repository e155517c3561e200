"""wheel: the pip-installable package. Its output is a directory, because the file's name holds version and platform.

wheel_library: what the wheels for all versions of Python share.
"""

def _run_step(ctx, step, directories, output, inputs, python = "", pythons = []):
    arguments = ctx.actions.args()
    arguments.add(step)
    for option, directory in directories.items():
        arguments.add("--{}={}".format(option, directory.path))
    if python:
        arguments.add("--python=" + python)
        arguments.add("--pythons=" + pythons[0].path)
    arguments.add_all([file for file in inputs if file.is_source])
    ctx.actions.run(
        executable = ctx.executable._builder,
        arguments = [arguments],
        inputs = inputs + pythons,
        outputs = [output],
        mnemonic = "Wheel",
        progress_message = "Building the {} of {}".format(step, ctx.label),
        use_default_shell_env = True,
    )

_BUILDER = attr.label(default = "//bazel:build_wheel", executable = True, cfg = "exec")

def _wheel_library_impl(ctx):
    library = ctx.actions.declare_directory(ctx.label.name)
    _run_step(ctx, "library", {"library": library}, library, ctx.files.srcs)
    return [DefaultInfo(files = depset([library]))]

wheel_library = rule(
    implementation = _wheel_library_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = True, doc = "what the extension is compiled from"),
        "_builder": _BUILDER,
    },
)

def _wheel_impl(ctx):
    library = ctx.file.library
    build = ctx.actions.declare_directory(ctx.label.name + "_build")
    wheel = ctx.actions.declare_directory(ctx.label.name)
    python = [ctx.attr.python, ctx.files.pythons]
    directories = {"library": library, "build": build}
    _run_step(ctx, "extension", directories, build, ctx.files.extension_srcs + [library], *python)
    directories = {"library": library, "build": build, "wheel": wheel}
    inputs = ctx.files.extension_srcs + ctx.files.srcs + [library, build]
    _run_step(ctx, "wheel", directories, wheel, inputs, *python)
    return [DefaultInfo(files = depset([wheel]), runfiles = ctx.runfiles([wheel]))]

wheel = rule(
    implementation = _wheel_impl,
    attrs = {
        "extension_srcs": attr.label_list(allow_files = True, doc = "what the extension is compiled from"),
        "library": attr.label(allow_single_file = True, doc = "a wheel_library of the same sources"),
        "python": attr.string(doc = "a version for which pythons names an interpreter; default: Bazel's Python"),
        "pythons": attr.label(allow_single_file = True),
        "srcs": attr.label_list(allow_files = True, doc = "the rest of the source tree"),
        "_builder": _BUILDER,
    },
)
