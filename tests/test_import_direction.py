"""The direction of imports: csrc <- pallas <- python <- tools, and csrc's library knows no Python."""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# What the Python files of a room may import from the product.
ALLOWED = {
    "pallas": {"isoprefill_csrc", "isoprefill_pallas"},
    "python/isoprefill": {"isoprefill_csrc", "isoprefill_pallas", "isoprefill"},
    "python/isoprefill_torch": {"isoprefill", "isoprefill_torch", "torch", "transformers"},
    "tools": {
        "isoprefill_csrc",
        "isoprefill_pallas",
        "isoprefill",
        "isoprefill_torch",
        "torch",
        "transformers",
    },
}
TEST_MODULES = {path.stem for path in (ROOT / "tests").glob("*.py")}
PRODUCT = {
    "isoprefill_csrc",
    "isoprefill_pallas",
    "isoprefill",
    "isoprefill_torch",
    "torch",
    "transformers",
    "tests",
    "tools",
    "setup",
    *TEST_MODULES,
}


def forbidden_imports(source: str, allowed: set[str]) -> set[str]:
    """Returns the product's own packages that a Python source imports although it may not."""
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module.split(".")[0])
    return (imported & PRODUCT) - allowed


def forbidden_includes(source: str) -> set[str]:
    """Returns the headers that the C++ library includes although they bind it to Python or to XLA."""
    return set(
        re.findall(r'#include\s*[<"]((?:Python\.h|pybind11/|xla/|csrc/bindings/)[^>"]*)', source)
    )


@pytest.mark.parametrize("room", ALLOWED)
def test_no_room_imports_from_above(room):
    """An import against the direction ties the kernel or the mask op to all that lies above it."""
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"no Python files under {room}: the test would pass without looking at anything"
    found = {
        str(file.relative_to(ROOT)): forbidden_imports(file.read_text(), ALLOWED[room])
        for file in files
    }
    assert {file: names for file, names in found.items() if names} == {}


def test_the_oracle_shares_no_code_with_what_it_judges():
    """isoprefill_torch may read model files and tokenise as isoprefill does, nothing else."""
    files = sorted((ROOT / "python" / "isoprefill_torch").rglob("*.py"))
    assert files
    shared = {
        name
        for file in files
        for name in re.findall(r"(?:from|import) (isoprefill[\w.]*)", file.read_text())
        if name.split(".")[0] != "isoprefill_torch"
    }
    assert shared <= {"isoprefill.models.source", "isoprefill.models.tokenizer"}


def test_the_mask_op_knows_no_python():
    """The C++ library must be usable, and testable under sanitizers, without Python."""
    files = [file for file in (ROOT / "csrc").glob("*") if file.suffix in {".cc", ".h"}]
    assert files
    found = {file.name: forbidden_includes(file.read_text()) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("room", "line", "module"),
    [
        ("pallas", "import isoprefill", "isoprefill"),
        ("pallas", "from isoprefill.layout import PackedLayout", "isoprefill"),
        ("python/isoprefill", "import tools.score", "tools"),
        ("python/isoprefill", "import isoprefill_torch", "isoprefill_torch"),
        ("python/isoprefill", "import torch", "torch"),
        ("python/isoprefill_torch", "from isoprefill_csrc import build_layout", "isoprefill_csrc"),
        ("tools", "def late():\n    import test_import_direction", "test_import_direction"),
    ],
)
def test_a_planted_import_is_found(room, line, module):
    """The detector itself: without it the tests above could pass on anything."""
    assert forbidden_imports(line, ALLOWED[room]) == {module}


@pytest.mark.parametrize(
    "header", ["Python.h", "pybind11/numpy.h", "xla/ffi/api/ffi.h", "csrc/bindings/arrays.h"]
)
def test_a_planted_include_is_found(header):
    """The same for C++."""
    assert forbidden_includes(f'#include "{header}"\n#include <vector>') == {header}


def test_importing_isoprefill_imports_no_jax():
    """The server's front end imports it, and must never touch a device."""
    import subprocess

    program = "import sys, isoprefill; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
