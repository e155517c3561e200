"""Stand-ins for the rule repositories in WORKSPACE mode (Bazel 4, without the network).

They re-export the rules that are built into that Bazel, so that BUILD files load every rule the same way under
every version. With MODULE.bazel (Bazel 7) the real repositories are used and nothing here is loaded.
"""

_CC = ["cc_binary", "cc_import", "cc_library", "cc_test", "cc_toolchain", "cc_toolchain_suite"]
_JAVA = [
    "java_binary",
    "java_import",
    "java_library",
    "java_package_configuration",
    "java_plugin",
    "java_proto_library",
    "java_runtime",
    "java_test",
    "java_toolchain",
]
_PYTHON = ["py_binary", "py_library", "py_runtime", "py_test"]
_CPUS = ["aarch64", "arm", "arm64", "armv7", "i386", "ppc", "s390x", "wasm32", "x86_32", "x86_64"]
_SYSTEMS = ["android", "freebsd", "ios", "linux", "macos", "none", "openbsd", "osx", "qnx", "tvos", "watchos", "windows"]
_PUBLIC = "package(default_visibility = [\"//visibility:public\"])\n"

def _constraints(setting, values):
    value = "constraint_value(name = \"{}\", constraint_setting = \":" + setting + "\")\n"
    return _PUBLIC + "constraint_setting(name = \"{}\")\n".format(setting) + "".join([value.format(v) for v in values])

def _native(rules):
    return "".join(["{0} = native.{0}\n".format(rule) for rule in rules])

def _stub_impl(ctx):
    for path, content in ctx.attr.files.items():
        ctx.file(path, content)

_stub_repository = repository_rule(
    implementation = _stub_impl,
    attrs = {"files": attr.string_dict(doc = "content by path")},
)

def native_rule_repositories():
    """Declares rules_cc, rules_java, rules_python, platforms and what `bazel test` asks for besides."""
    _stub_repository(name = "rules_cc", files = {"cc/BUILD": "", "cc/defs.bzl": _native(_CC)})
    _stub_repository(name = "rules_java", files = {"java/BUILD": "", "java/defs.bzl": _native(_JAVA)})
    _stub_repository(name = "rules_python", files = {
        "python/BUILD": "",
        "python/defs.bzl": "load(\"@bazel_tools//tools/python:toolchain.bzl\", _pair = \"py_runtime_pair\")\n" +
                           "py_runtime_pair = _pair\n" + _native(_PYTHON),
    })
    _stub_repository(name = "platforms", files = {
        "cpu/BUILD": _constraints("cpu", _CPUS),
        "os/BUILD": _constraints("os", _SYSTEMS),
    })
    _stub_repository(name = "remote_coverage_tools", files = {
        "BUILD": _PUBLIC + "".join([
            "filegroup(name = \"{}\")\n".format(name)
            for name in ["coverage_report_generator", "lcov_merger"]
        ]),
    })
