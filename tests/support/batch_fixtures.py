"""A model of two layers and a local Ray for the tests of a file."""

import contextlib

import pytest

from huggingface_directory import save_directory
from inline_ray import InlineRay
from isoprefill.batch.ray_session import RaySettings, ray_session
from small_models import random_model


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory):
    model = random_model("llama", num_hidden_layers=2, max_position_embeddings=64)
    return save_directory(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def local_ray():
    """Two places for actors; jobs find Ray running."""
    with ray_session(RaySettings(replicas=2)) as ray:
        yield ray


@pytest.fixture
def inline_ray(monkeypatch):
    """Jobs run in this process, without Ray."""
    made = InlineRay()

    @contextlib.contextmanager
    def session(settings):
        yield made

    monkeypatch.setattr("isoprefill.batch.job.ray_session", session)
    return made
