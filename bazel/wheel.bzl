"""wheel: the pip-installable package. Its output is a directory, because the file's name holds version and platform."""

def _run_step(ctx, step, directories, output, inputs):
    arguments = ctx.actions.args()
    arguments.add(step)
    for option, directory in directories.items():
        arguments.add("--{}={}".format(option, directory.path))
    if ctx.attr.python:
        arguments.add("--python=" + ctx.attr.python)
        arguments.add("--pythons=" + ctx.file.pythons.path)
    arguments.add_all([file for file in inputs if file.is_source])
    ctx.actions.run(
        executable = ctx.executable._builder,
        arguments = [arguments],
        inputs = inputs + ctx.files.pythons,
        outputs = [output],
        mnemonic = "Wheel",
        progress_message = "Building the {} of {}".format(step, ctx.label),
        use_default_shell_env = True,
    )

def _wheel_impl(ctx):
    build = ctx.actions.declare_directory(ctx.label.name + "_build")
    wheel = ctx.actions.declare_directory(ctx.label.name)
    directories = {"build": build, "wheel": wheel}
    _run_step(ctx, "extension", directories, build, ctx.files.extension_srcs)
    _run_step(ctx, "wheel", directories, wheel, ctx.files.extension_srcs + ctx.files.srcs + [build])
    return [DefaultInfo(files = depset([wheel]), runfiles = ctx.runfiles([wheel]))]

wheel = rule(
    implementation = _wheel_impl,
    attrs = {
        "extension_srcs": attr.label_list(allow_files = True, doc = "what the extension is compiled from"),
        "python": attr.string(doc = "a version for which pythons names an interpreter; default: Bazel's Python"),
        "pythons": attr.label(allow_single_file = True),
        "srcs": attr.label_list(allow_files = True, doc = "the rest of the source tree"),
        "_builder": attr.label(default = "//bazel:build_wheel", executable = True, cfg = "exec"),
    },
)
