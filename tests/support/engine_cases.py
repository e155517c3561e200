"""What the tests of the engine's algorithms score: a query of 40 tokens and 70 items, on a small random model."""

from pathlib import Path
from typing import Any

import numpy as np

import small_models
from huggingface_directory import save_directory
from isoprefill import ScoringEngine
from isoprefill.execution.algorithms import PLANS
from isoprefill.models.pretrained import Pretrained
from scoring_oracle import Oracle

RANDOM = np.random.default_rng(0)
QUERY = RANDOM.integers(0, 250, 40).tolist()
ITEMS = [RANDOM.integers(0, 250, length).tolist() for length in [5, 1, 9, 2, 3] * 14]
MEAN_LENGTH = 4
LABELS = [3, 99, 3]
DELIMITER_ID = 0  # an id like any other, which no text above has
QUERY[:] = [token + 1 for token in QUERY]
ITEMS[:] = [[token + 1 for token in item] for item in ITEMS]
TOLERANCE = 1e-4
ALGORITHMS = list(PLANS)


def make_model_and_oracle(directory: Path) -> tuple[Pretrained, Oracle]:
    """Makes a random model of two layers, and the same by transformers in float64."""
    model = small_models.random_model("llama", num_hidden_layers=2)
    save_directory(model, directory)
    return ScoringEngine.from_pretrained(directory).model, Oracle(model)


def delimiter_arguments(delimiter: str) -> dict[str, Any]:
    return {
        "delimiter": delimiter,
        "delimiter_id": None if delimiter == "none" else DELIMITER_ID,
    }
