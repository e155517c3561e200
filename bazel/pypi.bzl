"""Python packages from the hash-locked sets in requirements/, as labels like @pypi//jax and @pypi_tests//torch.

pypi_environment: a virtual environment, and the Python toolchain that runs in it.
pypi_overlay: more packages in a directory of their own, on PYTHONPATH only for the targets that depend on them.
"""

_ENVIRONMENT = """
load("@rules_cc//cc:defs.bzl", "cc_library")
load("@rules_python//python:defs.bzl", "py_runtime", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

exports_files([
    "installed.txt",
    "interpreter.txt",
])

py_runtime(
    name = "runtime",
    interpreter_path = "{python}",
    python_version = "PY3",
    stub_shebang = "#!/usr/bin/env python3",
)

py_runtime_pair(
    name = "runtime_pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtime_pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)

# Python's, pybind11's and XLA's.
cc_library(
    name = "headers",
    hdrs = glob(["include/**"]),
    includes = [
        "include/jaxlib",
        "include/pybind11",
        "include/python",
    ],
)
"""

_OVERLAY = """
load("@rules_python//python:defs.bzl", "py_library")

# One label for the whole directory: it holds some ten thousand files.
py_library(
    name = "site",
    data = [
        "installed.txt",
        "packages",
    ],
    imports = ["packages"],
    visibility = ["//visibility:public"],
)
"""

# Bazel does not see the packages' files. installed.txt stands for them: a changed lock re-runs what depends on it.
_PACKAGE = """
load("@rules_python//python:defs.bzl", "py_library")

py_library(
    name = "{name}",
    {attribute} = ["//:{target}"],
    visibility = ["//visibility:public"],
)
"""

def _execute(ctx, command, what):
    ctx.report_progress(what)
    result = ctx.execute(command, timeout = 3600)
    if result.return_code:
        fail("\n\n@{}: {} failed.\n{}{}\n".format(ctx.name, what, result.stdout, result.stderr))
    return result.stdout.strip()

def _locked_names(ctx, lock):
    lines = ctx.read(lock).split("\n")
    names = [line.split("==")[0] for line in lines if "==" in line and line[0] not in "# "]
    return [name.strip().lower().replace("-", "_").replace(".", "_") for name in names]

def _write_installed(ctx, python, where):
    """Writes installed.txt: the Python and each package with its version."""
    freeze = _execute(ctx, [python, "-m", "pip", "freeze", "--all"] + where, "listing the packages")
    version = _execute(ctx, [python, "-VV"], "asking Python for its version")
    ctx.file("installed.txt", version + "\n" + freeze + "\n")

def _find_python(ctx, installer, names):
    """Returns (the first of the names that can make an environment or None, why the preferred one cannot)."""
    reasons = []
    for name in names:
        python = name if "/" in name else ctx.which(name)
        if python:
            check = ctx.execute([python, installer, "check"])
            if check.return_code == 0:
                return python, None
            reasons.append(check.stderr.strip())
    if reasons:
        return None, reasons[0]
    return None, "{} not found on PATH.\nDebian: apt-get install python3-dev python3-venv".format(" or ".join(names))

def _base_python(ctx, installer):
    named = ctx.os.environ.get("ISOPREFILL_PYTHON")
    names = [named] if named else ["python3.11", "python3", "python3.12", "python3.13"]
    python, reason = _find_python(ctx, installer, names)
    if not python:
        fail("\n\n@{}: {}\n".format(ctx.name, reason))
    return python

def _environment_impl(ctx):
    installer = ctx.path(ctx.attr._installer)
    lock = ctx.path(ctx.attr.lock)
    python = ctx.path("venv/bin/python")
    _execute(
        ctx,
        [_base_python(ctx, installer), installer, "environment", ctx.path("venv"), lock],
        "installing {}".format(lock.basename),
    )
    headers = _execute(ctx, [python, installer, "headers"], "finding the headers").split("\n")
    for name, directory in zip(["python", "pybind11", "jaxlib"], headers):
        ctx.symlink(directory, "include/" + name)
    _write_installed(ctx, python, [])
    ctx.file("interpreter.txt", str(python))
    ctx.file("BUILD", _ENVIRONMENT.format(python = python))
    for name in _locked_names(ctx, lock):
        ctx.file(name + "/BUILD", _PACKAGE.format(name = name, attribute = "data", target = "installed.txt"))

pypi_environment = repository_rule(
    implementation = _environment_impl,
    attrs = {
        "lock": attr.label(mandatory = True, allow_single_file = True),
        "_installer": attr.label(default = "//bazel:install_packages.py", allow_single_file = True),
    },
    environ = ["ISOPREFILL_PYTHON"],
    doc = "A virtual environment of one lock's packages. ISOPREFILL_PYTHON names the interpreter it is made with.",
)

def _overlay_impl(ctx):
    installer = ctx.path(ctx.attr._installer)
    lock = ctx.path(ctx.attr.lock)
    python = ctx.read(ctx.attr._interpreter)
    locks = [lock] + ([ctx.path(ctx.attr.cuda_lock)] if ctx.attr.cuda_lock else [])
    _execute(
        ctx,
        [python, installer, "overlay", ctx.path("packages")] + locks + ctx.attr.from_source,
        "installing {}".format(lock.basename),
    )
    _write_installed(ctx, python, ["--path", str(ctx.path("packages"))])
    ctx.file("BUILD", _OVERLAY)
    for name in _locked_names(ctx, lock):
        ctx.file(name + "/BUILD", _PACKAGE.format(name = name, attribute = "deps", target = "site"))

pypi_overlay = repository_rule(
    implementation = _overlay_impl,
    attrs = {
        "cuda_lock": attr.label(allow_single_file = True),
        "from_source": attr.string_list(doc = "packages of the lock that have no wheel"),
        "lock": attr.label(mandatory = True, allow_single_file = True),
        "_installer": attr.label(default = "//bazel:install_packages.py", allow_single_file = True),
        "_interpreter": attr.label(default = "@pypi//:interpreter.txt", allow_single_file = True),
    },
    doc = "Packages of one lock, installed for @pypi's interpreter but outside its environment.",
)

def _each_python_impl(ctx):
    installer = ctx.path(ctx.attr._installer)
    lock = ctx.path(ctx.attr.lock)
    lines = []
    environments = []
    for version in ctx.attr.versions:
        pyenv = ctx.execute(["sh", "-c", "ls -d ~/.pyenv/versions/{}.*/bin/python".format(version)]).stdout.split("\n")
        python, reason = _find_python(ctx, installer, ["python" + version] + [path for path in pyenv if path])
        if python:
            directory = ctx.path(version)
            environments.append("{}={}".format(directory, python))
            lines.append("{}: {}/bin/python".format(version, directory))
        else:
            lines.append("{}: absent: {}".format(version, reason.replace("\n", " ")))
    if environments:
        what = "installing {} for each Python".format(lock.basename)
        _execute(ctx, [_base_python(ctx, installer), installer, "environments", lock] + environments, what)
    ctx.file("pythons.txt", "\n".join(lines) + "\n")
    ctx.file("BUILD", "exports_files([\"pythons.txt\"], visibility = [\"//visibility:public\"])\n")

_pypi_each_python = repository_rule(
    implementation = _each_python_impl,
    attrs = {
        "lock": attr.label(mandatory = True, allow_single_file = True),
        "versions": attr.string_list(mandatory = True),
        "_installer": attr.label(default = "//bazel:install_packages.py", allow_single_file = True),
    },
    doc = "One lock installed for each Python that is present; pythons.txt says where, or why not.",
)

def pypi_repositories():
    """The sets, and the runtime set once more for each Python that the wheel is tested with.

    What a build does not use is not installed. Label(): the locks are this repository's, whichever workspace calls.
    """
    pypi_environment(name = "pypi", lock = Label("//requirements:runtime.lock"))
    pypi_overlay(
        name = "pypi_tests",
        lock = Label("//requirements:tests.lock"),
        cuda_lock = Label("//requirements:cuda.lock"),
    )
    pypi_overlay(name = "pypi_browser", lock = Label("//requirements:browser.lock"))
    pypi_overlay(
        name = "pypi_integrations",
        from_source = ["rouge-score", "sqlitedict", "word2number"],
        lock = Label("//requirements:integrations.lock"),
    )
    pypi_overlay(name = "pypi_tpu", lock = Label("//requirements:tpu.lock"))
    pypi_overlay(name = "pypi_batch", lock = Label("//requirements:batch.lock"))
    pypi_overlay(name = "pypi_otel", lock = Label("//requirements:otel.lock"))
    pypi_overlay(name = "pypi_clients", lock = Label("//requirements:clients.lock"))
    pypi_overlay(name = "pypi_gemma", lock = Label("//requirements:gemma.lock"))
    _pypi_each_python(
        name = "pypi_each_python",
        lock = Label("//requirements:runtime.lock"),
        versions = ["3.11", "3.12", "3.13"],
    )
