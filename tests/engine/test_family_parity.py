"""Each family scores as transformers does one item at a time, whatever the algorithm and the back end.

If one of these fails, a switch of the decoder is wrong where rows are packed, or an item sees another through it. Every
parameter is random; windows are shorter than the prompts. transformers computes all logits of query + item in float32.
"""

import functools
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import pairwise
import small_models
from isoprefill import ScoringEngine

QUERY = [7, 3, 99, 12, 5, 44, 201, 18, 90, 33, 2, 150, 61, 77, 8, 19]
# With the query, shorter and longer than the windows of 20.
ITEMS = [[11, 200, 4], list(range(40, 53)), [9], list(range(100, 131)), [18, 77, 150, 9, 66]]
LABELS = [3, 99, 7]
CHANGED, KEPT = 1, [0, 2, 3, 4]

# Family, and what makes it other than `small_models` does.
MODELS = {
    **{family: (family, {}) for family in small_models.SETTINGS},
    "yarn": small_models.VARIANTS["qwen3, yarn"],
}
ALGORITHMS = ["packed", "packed_extend", "prefill_extend"]
ATTENTION = ["cpu", "xla"]
if pairwise.FULL in os.environ:
    AXES = {"model": list(MODELS), "algorithm": ALGORITHMS, "attention": ATTENTION}
    CASES = [tuple(case.values()) for case in pairwise.cases(AXES)]
else:  # one of each model, some of each algorithm and back end
    CASES = [(name, ALGORITHMS[i % 3], ATTENTION[i // 2 % 2]) for i, name in enumerate(MODELS)]


@functools.cache
def oracle_and_directory(name: str) -> tuple[torch.nn.Module, Path]:
    family, overrides = MODELS[name]
    model = small_models.random_model(family, **overrides)
    return model, small_models.save_directory(model, Path(tempfile.mkdtemp()))


@functools.cache
def expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, L] and likelihoods [N], from transformers."""
    model, _ = oracle_and_directory(name)
    labels, likelihoods = [], []
    for item in ITEMS:
        with torch.inference_mode():
            logits = model(torch.tensor([QUERY + item])).logits[0]
        logprobs = torch.log_softmax(logits.double(), dim=-1).numpy()
        labels.append(logprobs[-1, LABELS])
        rows = np.arange(len(QUERY) - 1, len(QUERY) + len(item) - 1)
        likelihoods.append(logprobs[rows, item].sum())
    return np.asarray(labels), np.asarray(likelihoods)


@pytest.mark.parametrize(("name", "algorithm", "attention"), CASES)
def test_a_family_scores_as_transformers(name, algorithm, attention):
    """Labels and likelihoods; then with another item in one's place, whose neighbours keep every bit."""
    engine = ScoringEngine.from_pretrained(
        oracle_and_directory(name)[1], attention=attention, chunk_tokens=32
    )
    changed = [item if index != CHANGED else [250] * 17 for index, item in enumerate(ITEMS)]
    for labels, wanted in zip((LABELS, None), expected(name), strict=True):
        found = np.asarray(engine.score(QUERY, ITEMS, labels, algorithm=algorithm).logprobs)
        assert np.ptp(wanted) > 1.0, "log-probabilities so near each other say nothing"
        difference = np.abs(found - wanted)
        assert difference.max() <= 1e-3
        assert difference.mean() <= 1e-4
        serial = np.asarray(engine.score(QUERY, ITEMS, labels, algorithm="serial").logprobs)
        assert np.abs(found - serial).max() <= 1e-4
        # A query that comes from the cache, if the algorithm keeps it; other neighbours.
        again = np.asarray(engine.score(QUERY, changed, labels, algorithm=algorithm).logprobs)
        np.testing.assert_array_equal(again[KEPT], found[KEPT])
        assert np.all(again[CHANGED] != found[CHANGED])
