"""A model of two layers and a local Ray for the tests of a file."""

import pytest
import ray

from small_models import random_model, save_directory


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory):
    model = random_model("llama", num_hidden_layers=2, max_position_embeddings=64)
    return save_directory(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def local_ray():
    """Two places for actors; jobs find Ray running."""
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
