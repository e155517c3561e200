"""The score command in this process, over a model of two layers that is loaded once."""

import pytest

from command_line import run
from huggingface_directory import save_directory
from isoprefill.cli import score
from isoprefill.execution.engine_settings import EngineSettings
from small_models import random_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    model = random_model("llama", num_hidden_layers=2)
    return EngineSettings(model=str(save_directory(model, tmp_path_factory.mktemp("model")))).load()


@pytest.fixture
def scored(engine, monkeypatch, tmp_path):
    """Runs the command in a directory of its own."""
    monkeypatch.setattr(EngineSettings, "load", lambda settings: engine)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **more: run(score, *arguments, **more)
