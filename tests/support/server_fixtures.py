"""Servers of a small random model, one a test file: `pytest_plugins = ["server_fixtures"]`.

A file's FLAGS, if it has any, are added to those of its `server`.
"""

import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import small_models
from huggingface_directory import save_directory
from running_server import RunningServer, running_server

RERANK_TEMPLATE = "Is this about {{ query }}?\nText: {{ document }}\nAnswer:"
KEY = "a-key-of-our-own"


def faulty_command(model_directory: str, **limits: Any) -> tuple[str, ...]:
    """Starts a server of `faulty_server`: the same processes, in a second, as nothing imports JAX or is compiled."""
    program = pathlib.Path(__file__).parent / "faulty_server.py"
    return (sys.executable, str(program), model_directory, json.dumps(limits))


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = small_models.random_model("llama")
    return str(save_directory(model, tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def flags(request: pytest.FixtureRequest, model_directory: str) -> list[str]:
    own = getattr(request.module, "FLAGS", ())
    return [
        f"--model={model_directory}",
        "--warmup-tokens=",
        f"--rerank-template={RERANK_TEMPLATE}",
        "--rerank-yes=y",
        "--rerank-no=n",
        *own,
    ]


@pytest.fixture(scope="module")
def server(flags: list[str]) -> Iterator[RunningServer]:
    with running_server(*flags) as one:
        yield one


@pytest.fixture(scope="module")
def strict_server(model_directory: str) -> Iterator[RunningServer]:
    """A server with a key, white space around it as in a file, small limits, and no likelihoods."""
    flags = [
        f"--model={model_directory}",
        "--warmup-tokens=",
        "--require-labels",
        "--rate-limit=0.001",
        "--rate-burst=60",
        "--max-body-bytes=20000",
        "--max-items=5",
        "--max-item-tokens=50",
        "--max-request-tokens=100",
        "--max-labels=3",
        "--read-timeout=1",
        "--delimiter=hidden",
        "--delimiter-token-id=0",
    ]
    with running_server(*flags, ISOPREFILL_API_KEY=f" {KEY}\n") as one:
        yield one
