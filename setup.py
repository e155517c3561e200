"""What pyproject.toml cannot say: two source folders and the C++ extension.

Bazel builds the extension as //csrc:isoprefill_csrc.
"""

import glob
import os

import jaxlib
import pybind11
from pybind11.setup_helpers import ParallelCompile
from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

PACKAGES = {
    package: f"{room}/{package.replace('.', '/')}"
    for room in ("python", "pallas")
    for package in find_packages(room, exclude=["isoprefill_torch*", "isoprefill_tpu_lab*"])
}
SOURCES = sorted(name for name in glob.glob("csrc/*.cc") if not name.endswith("_test.cc"))
CSRC_HEADERS = glob.glob("csrc/*.h")
FOREIGN_HEADERS = [
    pybind11.get_include(),
    os.path.join(os.path.dirname(jaxlib.__file__), "include"),
]
COMPILE_ARGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",  # csrc/BUILD says why
    "-g0",
    "-fvisibility=hidden",
]
LIBRARY_DIRECTORY = "build/library"


class BuildWithStubs(build_py):
    """Also puts the extension's types where PEP 561 has type checkers look: in a package of stubs beside it."""

    def run(self) -> None:
        """Builds."""
        super().run()
        stubs = os.path.join(self.build_lib, "isoprefill_csrc-stubs")
        self.mkpath(stubs)
        self.copy_file("csrc/isoprefill_csrc.pyi", os.path.join(stubs, "__init__.pyi"))


ParallelCompile(default=0).install()  # 0: as many compilers as there are cores
setup(
    cmdclass={"build_py": BuildWithStubs},
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    # csrc without Python: compiled once, in one place, whichever Python the extension is then linked for.
    libraries=[
        (
            "isoprefill",
            {
                "sources": SOURCES,
                "obj_deps": {"": CSRC_HEADERS},
                "include_dirs": ["."],
                "cflags": COMPILE_ARGS,
            },
        )
    ],
    options={"build_clib": {"build_clib": LIBRARY_DIRECTORY, "build_temp": LIBRARY_DIRECTORY}},
    ext_modules=[
        Extension(
            "isoprefill_csrc",
            sources=sorted(glob.glob("csrc/bindings/*.cc")),
            depends=[*SOURCES, *CSRC_HEADERS, *glob.glob("csrc/bindings/*.h")],
            include_dirs=["."],
            extra_compile_args=COMPILE_ARGS + [f"-isystem{path}" for path in FOREIGN_HEADERS],
            language="c++",
        )
    ],
)
