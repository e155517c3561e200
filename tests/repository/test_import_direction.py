"""The direction of imports between rooms, and that csrc's library knows no Python.

A room is a folder of the product, or a module that lies loose in the package isoprefill. docs/design.md draws them.
"""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# What each room may import of the product and of PyTorch. Every name stands above the rooms that import it, so there
# are no circles; the tests below hold the table to that.
LOOSE = {"isoprefill.bits", "isoprefill.integers", "isoprefill.modes", "isoprefill.settings"}
MODELS = {
    "isoprefill.models",
    *(
        f"isoprefill.models.{room}"
        for room in ("config", "weights", "decoder", "files", "tokenizers", "sources")
    ),
}
ROOMS: dict[str, set[str]] = {
    "torch": set(),
    "transformers": set(),
    "isoprefill_csrc": set(),
    "isoprefill_pallas": {"isoprefill_csrc"},
    "isoprefill_tpu_lab": {"isoprefill_csrc", "isoprefill_pallas"},
    **{module: set() for module in sorted(LOOSE)},
    "isoprefill.host": set(),
    "isoprefill.attention": {"isoprefill_csrc", "isoprefill_pallas", *LOOSE},
    "isoprefill.models.config": {*LOOSE},
    "isoprefill.models.weights": {
        "isoprefill_csrc",
        "isoprefill.host",
        "isoprefill.models.config",
        *LOOSE,
    },
    "isoprefill.models.decoder": {
        "isoprefill_csrc",
        "isoprefill.models.config",
        "isoprefill.models.weights",
        *LOOSE,
    },
    "isoprefill.models.files": {"isoprefill.models.config", "isoprefill.models.weights", *LOOSE},
    "isoprefill.models.tokenizers": {"isoprefill.models.config", "isoprefill.models.files", *LOOSE},
    "isoprefill.models.sources": {
        "isoprefill.models.files",
        "isoprefill.models.tokenizers",
        *LOOSE,
    },
    "isoprefill.models": {
        "isoprefill.models.config",
        "isoprefill.models.weights",
        "isoprefill.models.files",
        "isoprefill.models.tokenizers",
        "isoprefill.models.sources",
        *LOOSE,
    },
    "isoprefill.request": {*MODELS, *LOOSE},
    "isoprefill.execution": {
        "isoprefill_pallas",
        "isoprefill.attention",
        "isoprefill.host",
        *MODELS,
        "isoprefill.request",
        *LOOSE,
    },
    "isoprefill.rerank": {
        "isoprefill.execution",
        *MODELS,
        "isoprefill.request",
        *LOOSE,
    },
    "isoprefill.server": {
        "isoprefill_csrc",
        "isoprefill.execution",
        *MODELS,
        "isoprefill.rerank",
        "isoprefill.request",
        *LOOSE,
    },
    "isoprefill.audit": {*LOOSE},
    "isoprefill.batch": {
        "isoprefill.execution",
        "isoprefill.host",
        *MODELS,
        "isoprefill.request",
        *LOOSE,
    },
    "isoprefill.doctor": {
        "isoprefill_csrc",
        "isoprefill_pallas",
        "isoprefill.attention",
        "isoprefill.execution",
        "isoprefill.host",
        *MODELS,
        *LOOSE,
    },
    "isoprefill.cli": {
        "isoprefill.audit",
        "isoprefill.batch",
        "isoprefill.doctor",
        "isoprefill.execution",
        *MODELS,
        "isoprefill.request",
        "isoprefill.server",
        *LOOSE,
    },
    "isoprefill_sglang_jax": {
        "isoprefill_pallas",
        "isoprefill.request",
        *LOOSE,
    },
    "isoprefill.integrations": {
        "isoprefill_sglang_jax",
        "isoprefill.attention",
        "isoprefill.execution",
        *MODELS,
        "isoprefill.request",
        "isoprefill.rerank",
        *LOOSE,
    },
    "isoprefill_torch": {"torch", "transformers", *MODELS},
}
# These import what they like of the above, and nothing of the above imports them.
ROOMS["isoprefill"] = set(ROOMS)  # the package's face: __init__.py and __main__.py
ROOMS["tools"] = set(ROOMS)
ROOMS["tests"] = set(ROOMS)

TEST_MODULES = {path.stem for path in (ROOT / "tests").rglob("*.py")}
LENT = re.compile(
    r'^    "(\w+)": "(isoprefill[\w.]*)",$', re.M
)  # names of the face, and their homes


def room_of(module: str) -> str | None:
    """The room that a dotted name lies in; None if it is not the product's."""
    if module.split(".")[0] in TEST_MODULES:
        return "tests"
    while module and module not in ROOMS:
        module = module.rpartition(".")[0]
    return module or None


def homes() -> dict[str, str]:
    """Where each name comes from that `isoprefill` itself lends."""
    source = (ROOT / "python" / "isoprefill" / "__init__.py").read_text()
    lent = dict(LENT.findall(source))
    assert lent["PackedLayout"] == "isoprefill.attention.layout", (
        "the table of names has another form"
    )
    return lent


def imported_modules(source: str) -> set[str]:
    """The dotted names that a Python source imports, anywhere in it."""
    lent = homes()
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(lent.get(alias.name, whole) if node.module == "isoprefill" else whole)
    # What every import of a module below isoprefill runs anyway, and what is its own, such as the version.
    return found - {"isoprefill", "isoprefill.__version__"}


def forbidden_imports(source: str, room: str) -> set[str]:
    """Returns the modules that a source in a room imports although the room may not."""
    return {
        module
        for module in imported_modules(source)
        if (target := room_of(module)) and target != room and target not in ROOMS[room]
    }


def forbidden_includes(source: str) -> set[str]:
    """Returns the headers that the C++ library includes although they bind it to Python or to XLA."""
    return set(
        re.findall(r'#include\s*[<"]((?:Python\.h|pybind11/|xla/|csrc/bindings/)[^>"]*)', source)
    )


def files_of_rooms() -> dict[str, list[pathlib.Path]]:
    """Every Python file of the product, by its room."""
    found: dict[str, list[pathlib.Path]] = {}
    for top in ("pallas", "python"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT / top).with_suffix("").parts
            room = room_of(".".join(parts).removesuffix(".__init__").removesuffix(".__main__"))
            assert room, f"{path} lies in no room"
            found.setdefault(room, []).append(path)
    found["tools"] = sorted((ROOT / "tools").rglob("*.py"))
    return found


FILES = files_of_rooms()


@pytest.mark.parametrize("room", sorted(FILES))
def test_no_room_imports_from_above(room):
    """An import against the direction ties the kernel, the mask op or the engine to all that lies above it."""
    found = {
        str(file.relative_to(ROOT)): forbidden_imports(file.read_text(), room)
        for file in FILES[room]
    }
    assert {file: names for file, names in found.items() if names} == {}


def test_every_room_has_files():
    """A room without files would be checked without looking at anything."""
    assert set(FILES) == set(ROOMS) - {"torch", "transformers", "isoprefill_csrc", "tests"}


def test_the_table_has_no_circles():
    """A room that may import one that may import it is no room."""
    rooms = list(ROOMS)
    for place, (room, allowed) in enumerate(ROOMS.items()):
        assert allowed <= set(rooms[:place]), f"{room} stands above a room that it may import"


def test_few_modules_lie_loose():
    """What lies outside every room has to be looked for."""
    loose = list((ROOT / "python" / "isoprefill").glob("*.py"))
    assert len(loose) <= 6, sorted(path.name for path in loose)


def test_the_oracle_shares_no_code_with_what_it_judges():
    """isoprefill_torch may read model files and tokenise as isoprefill does, nothing else."""
    files = sorted((ROOT / "python" / "isoprefill_torch").rglob("*.py"))
    assert files
    shared = {
        module.rpartition(".")[0]
        for file in files
        for module in imported_modules(file.read_text())
        if module.startswith("isoprefill.")
    }
    assert shared <= {"isoprefill.models.sources.source", "isoprefill.models.tokenizers.tokenizer"}


def test_the_mask_op_knows_no_python():
    """The C++ library must be usable, and testable under sanitizers, without Python."""
    files = [file for file in (ROOT / "csrc").glob("*") if file.suffix in {".cc", ".h"}]
    assert files
    found = {file.name: forbidden_includes(file.read_text()) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("room", "line", "module"),
    [
        ("isoprefill_pallas", "import isoprefill.modes", "isoprefill.modes"),
        (
            "isoprefill_pallas",
            "from isoprefill_tpu_lab import packs",
            "isoprefill_tpu_lab.packs",
        ),
        (
            "isoprefill_pallas",
            "from isoprefill.attention.layout import PackedLayout",
            "isoprefill.attention.layout.PackedLayout",
        ),
        ("isoprefill_pallas", "from isoprefill import PackedLayout", "isoprefill.attention.layout"),
        ("isoprefill.modes", "import isoprefill.attention", "isoprefill.attention"),
        ("isoprefill.attention", "from isoprefill import execution", "isoprefill.execution"),
        (
            "isoprefill.request",
            "from isoprefill import ScoringEngine",
            "isoprefill.execution.engine",
        ),
        (
            "isoprefill.execution",
            "def late():\n    from isoprefill.server import logs",
            "isoprefill.server.logs",
        ),
        ("isoprefill.audit", "import isoprefill.server.errors", "isoprefill.server.errors"),
        ("isoprefill_sglang_jax", "import isoprefill.integrations", "isoprefill.integrations"),
        ("isoprefill.execution", "import isoprefill_torch", "isoprefill_torch"),
        ("isoprefill.models", "import torch.nn", "torch.nn"),
        (
            "isoprefill_torch",
            "from isoprefill_csrc import build_layout",
            "isoprefill_csrc.build_layout",
        ),
        ("tools", "def late():\n    import test_import_direction", "test_import_direction"),
    ],
)
def test_a_planted_import_is_found(room, line, module):
    """The detector itself: without it the tests above could pass on anything."""
    assert forbidden_imports(line, room) == {module}


@pytest.mark.parametrize(
    "header", ["Python.h", "pybind11/numpy.h", "xla/ffi/api/ffi.h", "csrc/bindings/arrays.h"]
)
def test_a_planted_include_is_found(header):
    """The same for C++."""
    assert forbidden_includes(f'#include "{header}"\n#include <vector>') == {header}


def test_importing_isoprefill_imports_no_jax():
    """The server's front end imports it, and must never touch a device."""
    program = "import sys, isoprefill; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
