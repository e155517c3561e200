"""Each family scores as transformers does one item at a time, whatever the algorithm and the back end.

If one of these fails, a switch of the decoder is wrong where rows are packed, or an item sees another through it. Every
parameter is random; windows are shorter than the prompts. transformers computes all logits of query + item in float32.
"""

import copy
import dataclasses
import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import model_families
import model_variants
import pairwise
import small_models
from huggingface_directory import save_directory
from isoprefill import ScoringEngine
from isoprefill.models.pretrained import load_pretrained

QUERY = [7, 3, 99, 12, 5, 44, 201, 18, 90, 33, 2, 150, 61, 77, 8, 19]
# With the query, shorter and longer than the windows of 20.
ITEMS = [[11, 200, 4], list(range(40, 53)), [9], list(range(100, 131)), [18, 77, 150, 9, 66]]
LABELS = [3, 99, 7]
CHANGED, KEPT = 1, [0, 2, 3, 4]

# Family, and what makes it other than `small_models` does.
MODELS = {
    **{family: (family, {}) for family in model_families.SETTINGS},
    "yarn": model_variants.VARIANTS["qwen3, yarn"],
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
    return model, save_directory(model, Path(tempfile.mkdtemp()))


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


# Faults of the configuration, one at a time. `//tests:models` has those of the weights.
FAULTS: dict[str, list[dict[str, Any]]] = {
    "gemma": [{"embedding_scale": 1.0}, {"activation": "silu"}],
    "gemma2": [
        {"sliding_window": 19},
        {"sliding_window": 21},
        {"windowed_layers": (False, True, False)},
        {"score_softcap": None},
        {"logit_softcap": None},
        {"query_scale": 0.2},
    ],
    "gemma3_text": [
        {"sliding_window": 19},
        {"sliding_window": 21},
        {"layer_ropes": None},
        {"local_rope_theta": 800.0},
        {"rope_frequency_divisors": None},
    ],
    "granite": [
        {"query_scale": None},
        {"embedding_scale": 1.0},
        {"residual_scale": 1.0},
        {"logit_scale": 1.0},
    ],
    "smollm3": [{"layer_ropes": None}],
    "gpt_oss": [
        {"sliding_window": 19},
        {"sliding_window": 21},
        {"windowed_layers": (False, True, False)},
        {"rope_attention_factor": 1.0},
    ],
}


@pytest.mark.parametrize("family", FAULTS)
def test_a_fault_of_the_configuration_is_seen(family):
    """Windows that are off by one, switches that are off: were one not seen, a model with it would pass for right."""
    model = load_pretrained(oracle_and_directory(family)[1])
    for fault in FAULTS[family]:
        config = dataclasses.replace(model.config, **fault)
        assert config != model.config
        engine = ScoringEngine(dataclasses.replace(model, config=config))
        found = np.asarray(engine.score(QUERY, ITEMS, LABELS).logprobs)
        assert not np.abs(found - expected(family)[0]).max() <= 1e-3, fault


@pytest.mark.parametrize("family", model_families.SETTINGS)
def test_bfloat16_errs_less_than_transformers_does(family, tmp_path):
    """Fails if something is rounded that should stay in float32: a norm's 1 + w, the residual stream, a soft cap.

    How much bfloat16 changes probabilities depends on the model: by 0.02 for the Gemma here, and by 0.05 with
    transformers. So the measure is what transformers' own bfloat16 makes of the same weights. The truth is float64.
    Items are many, and the median item counts, because some turn small errors into large ones: in a mixture an item
    may get another expert, in transformers' bfloat16 as in ours.
    """
    rng = np.random.default_rng(0)
    items = rng.integers(0, 256, (64, 8)).tolist()
    model = small_models.random_model(family)
    directory = save_directory(model, tmp_path, dtype=torch.bfloat16)
    engine = ScoringEngine.from_pretrained(directory, "bfloat16")
    ours = np.exp(engine.score(QUERY, items, list(range(small_models.VOCAB_SIZE))).logprobs)
    theirs = last_probabilities(copy.deepcopy(model).bfloat16(), items)
    truth = last_probabilities(model.double(), items)
    our_error, their_error = (
        np.median(np.sqrt(np.mean((found - truth) ** 2, axis=1))) for found in (ours, theirs)
    )
    print(f"{family}: {our_error:.1e} beside {their_error:.1e}, {our_error / their_error:.2f}")
    assert our_error <= 0.75 * their_error
    assert np.abs(ours - truth).mean() <= 0.01


def last_probabilities(model: torch.nn.Module, items: list[list[int]]) -> np.ndarray:
    """Of all tokens, after each item."""
    with torch.inference_mode():
        logits = model(torch.tensor([QUERY + item for item in items])).logits[:, -1]
    return torch.softmax(logits.double(), dim=-1).numpy()
