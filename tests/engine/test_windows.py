"""Models with sliding windows score as transformers does, however their items are packed.

If one of these fails, a row of a windowed layer sees a position more or less than its model was trained with, or an
item sees another. Windows are shorter than the query, so that items lie across their border.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

import small_models
from huggingface_directory import save_directory
from isoprefill import ScoringEngine
from isoprefill.models.pretrained import load_pretrained

QUERY = [7, 3, 99, 12, 5, 44, 201, 18, 90, 33, 2, 150, 61, 77, 8, 19, 250, 30, 31, 4]
# Shorter than the window, as long as it, longer: those see nothing of the query at their ends.
ITEMS = [[11, 200, 4], list(range(40, 53)), [9], list(range(100, 131)), [18, 77, 150, 9, 66]]
LABELS = [3, 99, 7]
WINDOW = 13
# Family, the keys of its configuration, and which of 3 layers they make windowed.
MODELS = {
    "all layers": ("mistral", {"sliding_window": WINDOW}, (True, True, True)),
    "upper layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        (False, True, True),
    ),
    "every other layer": (
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        (True, False, True),
    ),
}
WINDOW_KEYS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")


@pytest.fixture(scope="module", params=MODELS, ids=str)
def case(request, tmp_path_factory):
    """A model of transformers, and the same weights with the windows of MODELS, whatever reads its config.json."""
    family, keys, layers = MODELS[request.param]
    model = small_models.random_model(family, **keys)
    directory = save_directory(model, tmp_path_factory.mktemp("model"))
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config = {name: value for name, value in config.items() if name not in WINDOW_KEYS}
    file.write_text(json.dumps(config | {"sliding_window": None}))
    loaded = load_pretrained(directory)
    windowed = dataclasses.replace(
        loaded.config, sliding_window=WINDOW, windowed_layers=None if all(layers) else layers
    )
    return model, dataclasses.replace(loaded, config=windowed)


def transformers_logprobs(model, tokens):
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    return torch.log_softmax(logits.double(), dim=-1).numpy()


def of_labels(model, order=lambda query, item: query + item):
    return np.array(
        [transformers_logprobs(model, order(QUERY, item))[-1][LABELS] for item in ITEMS]
    )


@pytest.mark.parametrize("attention", ["cpu", "xla", "dense"])
def test_scores_equal_those_of_transformers(case, attention):
    """For labels, and for likelihoods, of which every row of an item counts."""
    model, loaded = case
    engine = ScoringEngine(loaded, attention=attention)
    found = np.asarray(engine.score(QUERY, ITEMS, LABELS).logprobs)
    error = np.abs(found - of_labels(model))
    assert error.max() < 1e-3
    assert error.mean() < 1e-4
    likelihoods = np.asarray(engine.score(QUERY, ITEMS).logprobs)
    for item, likelihood in zip(ITEMS, likelihoods, strict=True):
        logprobs = transformers_logprobs(model, QUERY + item)
        rows = np.arange(len(QUERY) - 1, len(QUERY) + len(item) - 1)
        assert abs(logprobs[rows, item].sum() - likelihood) < 1e-3


def test_every_algorithm_and_order_equals_serial(case):
    """Over a cached query positions decide, not columns; the items come first or last."""
    model, loaded = case
    engine = ScoringEngine(loaded, attention="cpu", chunk_tokens=32)
    for item_first in (False, True):
        serial = engine.score(QUERY, ITEMS, LABELS, algorithm="serial", item_first=item_first)
        for algorithm in ("packed", "packed_extend", "prefill_extend"):
            for _ in range(2):  # the second time the query comes from the cache
                found = engine.score(
                    QUERY, ITEMS, LABELS, algorithm=algorithm, item_first=item_first
                )
                np.testing.assert_allclose(found.logprobs, serial.logprobs, atol=1e-4, rtol=0)
    first = np.asarray(serial.logprobs)
    assert np.abs(first - of_labels(model, lambda query, item: item + query)).max() < 1e-3


def test_causal_isolation_is_one_running_sequence(case):
    """All of the pack is then one text, with one window that runs over items."""
    model, loaded = case
    engine = ScoringEngine(loaded, attention="cpu")
    found = np.asarray(engine.score(QUERY, ITEMS, LABELS, isolation="causal").logprobs)
    text = QUERY + [token for item in ITEMS for token in item]
    ends = len(QUERY) + np.cumsum([len(item) for item in ITEMS]) - 1
    expected = transformers_logprobs(model, text)[ends][:, LABELS]
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("attention", ["cpu", "xla"])
def test_other_items_do_not_change_a_bit(case, attention):
    """Their tokens, their number, their lengths."""
    _, loaded = case
    engine = ScoringEngine(loaded, attention=attention)
    before = np.asarray(engine.score(QUERY, ITEMS, LABELS, algorithm="packed").logprobs)
    changed = [ITEMS[0], [250] * 40, ITEMS[2], ITEMS[3][::-1], ITEMS[4]]
    after = np.asarray(engine.score(QUERY, changed, LABELS, algorithm="packed").logprobs)
    kept = [0, 2, 4]
    np.testing.assert_array_equal(before[kept], after[kept])
    assert (before[1] != after[1]).all()


@pytest.mark.parametrize("wrong", [WINDOW - 1, WINDOW + 1, None])
def test_a_window_off_by_one_is_seen(case, wrong):
    """The comparison itself: with one position more or less, or no window, scores differ from those of transformers."""
    model, loaded = case
    layers = None if wrong is None else loaded.config.windowed_layers
    config = dataclasses.replace(loaded.config, sliding_window=wrong, windowed_layers=layers)
    engine = ScoringEngine(dataclasses.replace(loaded, config=config), attention="cpu")
    error = np.abs(np.asarray(engine.score(QUERY, ITEMS, LABELS).logprobs) - of_labels(model))
    assert error.max() > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sliding_window": 0}, "sliding_window must be a positive integer or None, got 0"),
        ({"windowed_layers": (True,) * 3}, "windowed_layers needs a sliding_window, got None"),
        (
            {"sliding_window": 8, "windowed_layers": (True, False)},
            r"windowed_layers must hold num_layers = 3 booleans, got \(True, False\)",
        ),
        (
            {"score_softcap": 0.0},
            r"score_softcap must be a positive finite float or None, got 0\.0",
        ),
        ({"query_scale": -1.0}, r"query_scale must be a positive finite float or None, got -1\.0"),
    ],
)
def test_attention_that_no_model_has_is_refused(case, change, message):
    config = dataclasses.replace(case[1].config, sliding_window=None, windowed_layers=None)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_attention_sinks_without_weights_are_refused(case):
    """Else such a model would be scored as if it had none. test_family_parity scores one that has."""
    _, loaded = case
    config = dataclasses.replace(loaded.config, attention_sinks=True)
    with pytest.raises(ValueError, match=r"attention_sinks needs .* params\.layers\.sinks is None"):
        ScoringEngine(dataclasses.replace(loaded, config=config))
