"""What of sglang-jax the link to it expects, and what `install()` refuses.

The stand-ins for sglang-jax's classes (tests/support/sglang_stand_in) have the names and arguments of the real ones:
the first test compares them with the interface that tools/check_sglang_jax.py compares the real source with.
"""

import sglang_server  # isort: skip # noqa: F401 - it lets the others be found

import json
import os
import pickle
import shutil
import subprocess
import sys

import jax
import pytest
from sgl_jax.srt.entrypoints import engine

from isoprefill_sglang_jax import IncompatibleSglangJaxError, source_interface
from isoprefill_sglang_jax.versions import EXPECTED, check_versions
from sglang_server import STAND_IN

INTERFACE = json.loads(EXPECTED.read_text())["interface"]


def test_stand_ins_have_the_real_interface():
    """Tests on stand-ins whose arguments differ from the real ones would prove nothing about sglang-jax."""
    assert source_interface.differences(STAND_IN, INTERFACE) == []


@pytest.mark.parametrize(
    ("module", "old", "new", "named"),
    [
        (
            "layers/attention/base_attn_backend",
            "q, k, v, layer",
            "q, k, layer, v",
            "base_attn_backend.AttentionBackend.__call__: expected (self, q, k, v, layer, forward_batch, **kwargs), "
            "found (self, q, k, layer, v, forward_batch, **kwargs)",
        ),
        (
            "layers/attention/base_attn_backend",
            "get_max_running_reqests",
            "get_max_running_requests",
            "get_max_running_reqests: expected (max_context_len, page_size), found none",
        ),
        ("managers/scheduler", "class Scheduler(", "class Planner(", "Scheduler: expected a class, found none"),
        ("managers/scheduler", "_add_request_to_queue", "_enqueue", "_add_request_to_queue"),
        ("managers/schedule_batch", "self.extra_key", "self.cache_salt", "Req.extra_key: expected an attribute"),
        ("managers/schedule_batch", "out_cache_loc: np", "loc: np", None),
        ("managers/schedule_batch", "cache_loc: np.ndarray\n    extend", "extend", "ModelWorkerBatch.cache_loc"),
        ("managers/tokenizer_manager", "item_first=False,\n        request", "request", "score_request: expected"),
        ("entrypoints/engine", "import run_scheduler_process", "import run_it", "engine.run_scheduler_process"),
        ("mem_cache/common", "is_insert=True", "*, is_insert=True", "release_kv_cache: expected"),
    ],
)  # fmt: skip
def test_a_planted_difference_is_named(module, old, new, named, tmp_path):
    """The detector itself; the one row without a name changes what the link does not use."""
    root = tmp_path / "root"
    shutil.copytree(STAND_IN, root)
    path = root / "sgl_jax" / "srt" / f"{module}.py"
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new))
    found = source_interface.differences(root, INTERFACE)
    if named is None:
        assert found == []
    else:
        assert any(named in line for line in found), found


def test_a_missing_module_is_named(tmp_path):
    """An older sglang-jax lacks whole files."""
    shutil.copytree(STAND_IN, tmp_path / "root")
    (tmp_path / "root/sgl_jax/srt/layers/logits_processor.py").unlink()
    (found,) = source_interface.differences(tmp_path / "root", INTERFACE)
    assert found == "sgl_jax.srt.layers.logits_processor: expected a module, found none"


def test_install_refuses_another_interface(tmp_path, monkeypatch):
    """Wrapping functions that are not what they were would fail later, inside a server."""
    root = tmp_path / "root"
    shutil.copytree(STAND_IN, root)
    path = root / "sgl_jax/srt/model_executor/model_runner.py"
    path.write_text(
        path.read_text().replace(
            "def forward(self, forward_batch, logits", "def forward(self, logits"
        )
    )
    monkeypatch.setattr(sys.modules["sgl_jax"], "__path__", [str(root / "sgl_jax")])
    with pytest.raises(
        IncompatibleSglangJaxError, match=r"ModelRunner\.forward: expected \(self, forward_batch, "
    ):
        check_versions(allow_untested=True)


def test_install_names_the_versions_that_differ(monkeypatch):
    """A user must learn which of their versions is not the tested one."""
    monkeypatch.setattr(jax, "__version__", "0.11.0")
    monkeypatch.setattr(sys, "version_info", type("V", (), {"major": 3, "minor": 14}))
    with pytest.raises(IncompatibleSglangJaxError) as raised:
        check_versions(allow_untested=False)
    assert "jax 0.11.0: expected 0.10.2" in str(raised.value)
    assert "Python 3.14: expected 3.12 or 3.13" in str(raised.value)
    check_versions(allow_untested=True)


def test_without_sglang_jax_the_import_says_what_to_install():
    """Otherwise a user sees `No module named sgl_jax` and installs the old release from the package index."""
    done = subprocess.run(
        [sys.executable, "-c", "import isoprefill.integrations.sglang_jax"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p != str(STAND_IN))},
        text=True,
        capture_output=True,
    )
    assert done.returncode
    assert "ImportError" in done.stderr
    assert "pip install <sglang-jax>/python[cpu]" in done.stderr


def test_child_processes_install_too():
    """sglang-jax spawns its scheduler, which imports everything anew."""
    target = pickle.loads(pickle.dumps(engine.run_scheduler_process))
    written = []
    target(None, None, None, written)
    assert written == ["the original ran"]
    assert target.func.__module__ == "isoprefill_sglang_jax.hooks"
    assert target.args == ({"attention": "auto", "allow_untested": True},)
