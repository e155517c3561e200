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
SOURCES = [name for name in glob.glob("csrc/*.cc") if not name.endswith("_test.cc")]
HEADERS = [
    pybind11.get_include(),
    os.path.join(os.path.dirname(jaxlib.__file__), "include"),
]


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
    ext_modules=[
        Extension(
            "isoprefill_csrc",
            sources=sorted(SOURCES + glob.glob("csrc/bindings/*.cc")),
            depends=glob.glob("csrc/**/*.h", recursive=True),
            include_dirs=["."],
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-ffp-contract=off",  # csrc/BUILD says why
                "-g0",
                "-fvisibility=hidden",
                *(f"-isystem{directory}" for directory in HEADERS),
            ],
            language="c++",
        )
    ],
)
