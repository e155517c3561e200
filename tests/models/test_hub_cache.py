"""A model is found by its name on the Hub where the Hub's tools have put it, and nothing is ever fetched.

If one of these fails, a user must find out the folder of a commit by hand, or gets another revision's weights.
"""

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.sources.hub_cache import HubName, cache_directory
from isoprefill.models.sources.source import find_adapter, find_model, load_tokenizer
from model_refusals import assert_refused
from small_models import random_model

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    for variable in ("HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "hub"


def add(cache: Path, repository: str, commit: str, **references: str) -> Path:
    """Makes a repository's folder with an empty snapshot; returns the snapshot."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for name, target in references.items():
        reference = folder / "refs" / name
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(target)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    return snapshot


def test_a_model_is_loaded_by_its_name(cache):
    """Its files are links to blobs, as the Hub's tools make them."""
    snapshot = add(cache, "some-org/Model-1.5", NEW, main=NEW)
    save_directory(random_model("llama", num_hidden_layers=1), snapshot)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(Path("../../blobs") / str(number))
    model = load_pretrained("some-org/Model-1.5")
    assert model.name == "some-org/Model-1.5"
    assert load_tokenizer("some-org/Model-1.5").encode("ab") == model.tokenizer.encode("ab")


def test_revisions_are_branches_tags_and_commits(cache):
    for commit in (OLD, NEW):
        (add(cache, "o/m", commit, main=NEW, v1=OLD, **{"pr/1": OLD}) / "config.json").touch()
    for name, commit in {"o/m": NEW, "o/m@main": NEW, "o/m@v1": OLD, "o/m@pr/1": OLD}.items():
        assert find_model(name).path.name == commit
    assert find_model(f"o/m@{OLD}").path.name == OLD
    assert find_model(f"o/m@{OLD}").name == "o/m"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("o/absent", "hf download o/absent"),
        ("o/m@v2", "hf download o/m --revision v2"),
        ("o/m/x.gguf", "hf download o/m x.gguf"),
        ("o/m/a/x.gguf@v1", "hf download o/m a/x.gguf --revision v1"),
        ("o/dangling", "hf download o/dangling"),
        ("o/elsewhere", "hf download o/elsewhere"),
    ],
)
def test_what_is_not_there_says_the_command(cache, name, command):
    add(cache, "o/m", OLD, main=OLD, v1=OLD)
    add(cache, "o/dangling", OLD, main=NEW)
    add(cache, "o/elsewhere", OLD, main=f"../../models--o--m/snapshots/{OLD}")
    assert_refused(name, rf"not in the Hub's cache .*nothing is fetched here: .*`{command}`$")


def test_paths_win_over_names(cache, tmp_path):
    (add(cache, "o/m", OLD, main=OLD) / "config.json").touch()
    local = tmp_path / "o" / "m"
    local.mkdir(parents=True)
    (local / "config.json").touch()
    assert find_model("o/m").path.resolve() == local
    assert find_model("./o/m").path.resolve() == local


def test_the_only_gguf_model_of_a_repository_is_taken(cache):
    snapshot = add(cache, "o/m-GGUF", OLD, main=OLD)
    oracle = random_model("llama", num_hidden_layers=1)
    save_gguf(oracle, snapshot / "m-q8.gguf")
    assert load_pretrained("o/m-GGUF").name == "o/m-GGUF"
    (snapshot / "m-q4.gguf").write_bytes((snapshot / "m-q8.gguf").read_bytes())
    assert_refused("o/m-GGUF", r"has 2 GGUF models: give one of them, such as .*m-q4\.gguf")
    assert find_model("o/m-GGUF/m-q8.gguf").path == snapshot / "m-q8.gguf"
    split = add(cache, "o/split", OLD, main=OLD)
    for number in (1, 2):
        (split / f"m-{number:05}-of-00002.gguf").touch()
    assert find_model("o/split").path.name.startswith("m-0000")


def test_an_adapter_is_found_by_its_name(cache):
    snapshot = add(cache, "o/adapter", OLD, main=OLD)
    assert find_adapter("o/adapter") == snapshot
    with pytest.raises(ValueError, match="hf download o/none"):
        find_adapter("o/none")


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "/a/b",
        "a/../b",
        "o/m@../x",
        "o/m@/x",
        "o/m/../../x",
        "o m/x",
        ".hidden/m",
        "",
        "dir/x.gguf",
    ],
)
def test_other_texts_are_no_names(text):
    """They must not lead out of the cache."""
    assert HubName.parse(text) is None


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_HUB_CACHE": "/x/hub", "HF_HOME": "/y"},
        {"HF_HOME": "/y"},
        {"XDG_CACHE_HOME": "/z"},
        {},
    ],
)
def test_the_cache_is_where_the_hubs_own_package_has_it(monkeypatch, environment):

    for variable in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    program = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    theirs = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert str(cache_directory()) == theirs.stdout.strip()


def test_the_hubs_own_package_finds_the_same_files(cache):
    """Against the package that writes the cache."""
    snapshot = add(cache, "o/m", NEW, main=NEW, v1=NEW)
    (snapshot / "config.json").write_text("{}")
    for revision in ("main", "v1", NEW):
        theirs = huggingface_hub.try_to_load_from_cache(
            "o/m", "config.json", cache_dir=cache, revision=revision
        )
        assert HubName("o/m", "config.json", revision).locate() == Path(theirs)
