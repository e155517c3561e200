"""A model that is named with a commit is fetched from the Hub once, and nothing else ever is.

If one of these fails, a name means other weights tomorrow, a download that broke off is taken for a model, or code and
pickles of a repository reach the disk. The Hub is a server on this machine.
"""

import subprocess
import sys

import huggingface_hub
import pytest

from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.sources.hub_cache import cache_directory
from isoprefill.models.sources.pinned import FetchError
from isoprefill.models.sources.source import find_adapter, find_model
from local_hub import local_hub
from model_refusals import assert_refused
from small_models import random_model

COMMIT = "c" * 40
NAME = f"some-org/Model-1.5@{COMMIT}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository with a model, an adapter's files, code, a pickle and a folder; an empty cache."""
    for variable in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    directory = save_directory(random_model("llama", num_hidden_layers=1), tmp_path / "files")
    for name in ("modeling_model.py", "pytorch_model.bin", "README.md"):
        (directory / name).write_text("not to be fetched")
    (directory / "onnx").mkdir()
    (directory / "onnx" / "config.json").write_text("{}")
    with local_hub("some-org/Model-1.5", COMMIT, directory) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_a_commit_is_fetched_once_and_loaded(hub, capsys):
    model = load_pretrained(NAME)
    assert model.name == "some-org/Model-1.5"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(hub.fetched)
    assert all(name.endswith((".json", ".safetensors")) for name in hub.fetched)
    assert not any("/" in name for name in hub.fetched)
    assert capsys.readouterr().err.count("\n") == 1
    count = len(hub.fetched)
    assert (
        find_model(NAME).path.parent == cache_directory() / "models--some-org--Model-1.5/snapshots"
    )
    assert find_adapter(NAME) == find_model(NAME).path
    hub.shutdown()
    assert find_model(NAME).path.is_dir()
    assert len(hub.fetched) == count


@pytest.mark.parametrize("name", ["some-org/Model-1.5", "some-org/Model-1.5@main", f"{NAME[:-1]}"])
def test_what_is_not_pinned_is_not_fetched(hub, name):
    """A branch or a tag is another model tomorrow."""
    assert_refused(name, "nothing is fetched here")
    assert not hub.fetched


def test_nothing_is_fetched_offline(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_refused(NAME, "nothing is fetched here")
    assert not hub.fetched


def test_nothing_is_fetched_without_the_package(hub, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"nothing is fetched here.*isoprefill\[hub\]"):
        find_model(NAME)


def test_a_fetch_that_broke_off_is_not_taken_for_a_model(hub):
    hub.failing = {"model.safetensors"}
    with pytest.raises(
        FetchError, match=rf"some-org/Model-1\.5@{COMMIT} could not be fetched"
    ) as raised:
        find_model(NAME)
    assert "\n" not in str(raised.value)
    hub.failing = set()
    load_pretrained(NAME)
    assert "model.safetensors" in hub.fetched


def test_two_processes_may_fetch_the_same(hub, monkeypatch):
    """The one that ends last has nothing left to mark as complete."""
    download = huggingface_hub.snapshot_download

    def and_the_other_ends(*args, **kwargs):
        found = download(*args, **kwargs)
        (marker,) = cache_directory().glob("*/.*-incomplete")
        marker.unlink()
        return found

    monkeypatch.setattr(huggingface_hub, "snapshot_download", and_the_other_ends)
    assert find_model(NAME).path.is_dir()


def test_an_unknown_commit_is_an_error_of_one_line(hub):
    with pytest.raises(FetchError, match="could not be fetched from the Hub") as raised:
        find_model("some-org/Model-1.5@" + "d" * 40)
    assert "\n" not in str(raised.value)


def test_one_file_is_fetched_with_the_other_parts_of_its_model(hub):
    for number in (1, 2):
        (hub.directory / f"m-{number:05}-of-00002.gguf").write_bytes(b"part %d" % number)
    (hub.directory / "q8").mkdir()
    save_gguf(random_model("llama", num_hidden_layers=1), hub.directory / "q8" / "m.gguf")
    found = find_model(f"some-org/Model-1.5/m-00001-of-00002.gguf@{COMMIT}").path
    assert sorted(hub.fetched) == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert found.with_name("m-00002-of-00002.gguf").is_file()
    load_pretrained(f"some-org/Model-1.5/q8/m.gguf@{COMMIT}")


def test_one_file_is_not_taken_for_all_of_a_model(hub):
    """Both lie in the same folder of the cache."""
    save_gguf(random_model("llama", num_hidden_layers=1), hub.directory / "m.gguf")
    find_model(f"some-org/Model-1.5/m.gguf@{COMMIT}")
    load_pretrained(NAME)
    assert "model.safetensors" in hub.fetched


def test_importing_does_not_import_the_package():
    program = "import sys, isoprefill.models.pretrained; sys.exit('huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
