"""A model of two layers and a local Ray for the tests of a file."""

import contextlib
import os

import pytest

from inline_ray import InlineRay
from small_models import random_model, save_directory


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory):
    model = random_model("llama", num_hidden_layers=2, max_position_embeddings=64)
    return save_directory(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def local_ray():
    """Two places for actors; jobs find Ray running."""
    import ray

    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=100_000_000,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def inline_ray(monkeypatch):
    """Jobs run in this process, without Ray."""
    made = InlineRay()

    @contextlib.contextmanager
    def session(settings):
        yield made

    monkeypatch.setattr("isoprefill.batch.job.ray_session", session)
    return made
