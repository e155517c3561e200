"""Devices that share out rows between products, as on a TPU: here eight simulated ones, with plain weights.

If one of these fails, a model over several chips scores otherwise than on one, or a neighbour reaches an item there.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # before jax looks

import numpy as np
import pytest
import torch

import small_models
from huggingface_directory import save_directory
from isoprefill import MeshShape, ScoringEngine
from isoprefill.models.decoder import decoder
from isoprefill.models.pretrained import load_pretrained
from unpacked_params import unpacked, unpacked_engine

RANDOM = np.random.default_rng(0)
QUERY = RANDOM.integers(1, 250, 40).tolist()
ITEMS = [RANDOM.integers(1, 250, length).tolist() for length in [5, 1, 9, 2, 3, 7, 4]]
LABELS = [3, 99]
TOLERANCE = 1e-4
# With two data shards the items are in several packs, side by side.
MESHES = {
    "tensor=8": {},
    "data=2,tensor=4": {"pack_tokens": len(QUERY) + 16, "chunk_tokens": 16},
}
SIZES = {
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 8,
    "intermediate_size": 96,
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A model and a classifier of one family, whose heads eight devices can share out."""
    models = {
        "labels": small_models.random_model("qwen3", **SIZES),
        "classes": small_models.random_classifier("qwen3", True, num_labels=3, **SIZES),
    }
    return {
        (name, dtype): save_directory(
            model, tmp_path_factory.mktemp(f"{name}-{dtype}"), dtype=getattr(torch, dtype)
        )
        for name, model in models.items()
        for dtype in ("float32", "bfloat16")
    }


@pytest.fixture
def engine(directories, monkeypatch):
    """A function that returns an engine on a mesh, or on one device, with the weights of a TPU."""

    def make(name="labels", dtype="float32", mesh=None, computed=None):
        options = {} if mesh is None else {"mesh": MeshShape.parse(mesh), **MESHES[mesh]}
        model = load_pretrained(directories[name, dtype], computed or dtype)
        return unpacked_engine(model, monkeypatch, attention="xla", **options)

    return make


def scores_of(scorer, name, items, algorithm="packed"):
    """Probabilities of labels, or of classes; with those the hidden states that they were made of."""
    if name == "labels":
        return [np.exp(scorer.score(QUERY, items, LABELS, algorithm=algorithm).logprobs)]
    found = scorer.score(QUERY, items, algorithm=algorithm, return_pooled_hidden_states=True)
    return [found.scores, np.asarray(found.pooled_hidden_states)]


def with_vectors(model):
    """The items, of which two are the model's own embeddings, and one is vectors of no token."""
    table = np.asarray(unpacked(model.params).embedding).astype(np.float32)
    made = np.random.default_rng(1).normal(size=(2, table.shape[1])).astype(np.float32) * 0.1
    return [table[ITEMS[0]], ITEMS[1], made, table[ITEMS[3]], *ITEMS[4:]]


def other_than(item):
    """An item of the same length: vectors a million times as large, or other tokens."""
    return item * 1e6 if isinstance(item, np.ndarray) else [(7 * token + 3) % 250 for token in item]


@pytest.mark.parametrize("mesh", ["tensor=3", "tensor=8", "data=2,tensor=4"])
def test_a_norm_is_of_the_devices_own_rows(tmp_path, monkeypatch, mesh):
    """And the scores are those of packed weights on one device. Three devices leave a rest of 64 rows: each has all."""
    heads, devices = (3 if mesh == "tensor=3" else 8), MeshShape.parse(mesh).tensor
    random = small_models.random_model(
        "qwen3", **SIZES | {"num_attention_heads": 2 * heads, "num_key_value_heads": heads}
    )
    one = ScoringEngine.from_pretrained(save_directory(random, tmp_path))
    rows, rms_norm = set(), decoder.rms_norm

    def watched(x, *arguments):
        rows.update(x.shape[:1] if x.ndim == 2 else ())  # the others are of heads
        return rms_norm(x, *arguments)

    monkeypatch.setattr(decoder, "rms_norm", watched)
    many = unpacked_engine(
        one.model, monkeypatch, mesh=MeshShape.parse(mesh), **MESHES.get(mesh, {})
    )
    scores = [engine.score(QUERY, ITEMS, algorithm="packed_extend") for engine in (many, one)]
    np.testing.assert_allclose(scores[0].logprobs, scores[1].logprobs, atol=TOLERANCE)
    assert rows == {64 if mesh == "tensor=3" else 64 // devices}


@pytest.mark.parametrize(
    ("name", "mesh", "algorithm"),
    [
        ("labels", "tensor=8", "packed"),
        ("labels", "data=2,tensor=4", "packed_extend"),
        ("classes", "tensor=8", "packed_extend"),
        ("classes", "data=2,tensor=4", "packed"),
    ],
)
def test_vectors_and_classes_score_as_on_one_device(engine, name, mesh, algorithm):
    """Each device looks up its own rows' vectors, and has all rows' hidden states, which are not added up."""
    many, one = engine(name, mesh=mesh), engine(name)
    items = with_vectors(one.model)
    found = [scores_of(each, name, items, algorithm) for each in (many, one)]
    for of_many, of_one in zip(*found, strict=True):
        np.testing.assert_allclose(of_many, of_one, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["labels", "classes"])
def test_what_neighbours_hold_changes_no_bit(engine, name):
    """Tokens, and vectors of any size, of items that share devices, packs and rounds with the one that is looked at."""
    scorer = engine(name, mesh="data=2,tensor=4")
    items = with_vectors(scorer.model)
    before = scores_of(scorer, name, items)
    for kept in (1, 2, 6):
        others = [item if place == kept else other_than(item) for place, item in enumerate(items)]
        after = scores_of(scorer, name, others)
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(new[kept], old[kept])
            changed = np.delete(np.abs(new - old).max(axis=1), kept)
            assert (changed > 0).all()


def test_bfloat16_is_as_exact_as_on_one_device(engine):
    """Both against the same weights in float32: the devices' parts are added up in float32.

    And no neighbour's content changes a bit.
    """
    labels = list(range(small_models.VOCAB_SIZE))

    def logprobs(scorer, items=ITEMS):
        return scorer.score(QUERY, items, labels, algorithm="packed").logprobs

    exact = logprobs(engine(dtype="bfloat16", computed="float32"))
    scorer = engine(dtype="bfloat16", mesh="data=2,tensor=4")
    many = logprobs(scorer)
    errors = [
        np.sqrt(np.mean((found - exact) ** 2))
        for found in (many, logprobs(engine(dtype="bfloat16")))
    ]
    assert 0 < errors[0] < 1.1 * errors[1]
    others = [item if place == 3 else other_than(item) for place, item in enumerate(ITEMS)]
    np.testing.assert_array_equal(logprobs(scorer, others)[3], many[3])
