"""Several devices give the scores of one: data and tensor parallelism on eight simulated devices.

If one of these fails, scores depend on how many devices compute them, or a model that cannot be shared out is.
"""

import dataclasses
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # before jax looks

import jax
import numpy as np
import pytest

import small_models
from huggingface_directory import save_directory
from isoprefill import LabelSets, MeshShape, ScoringEngine
from isoprefill.execution.mesh import make_mesh
from isoprefill.execution.prefix_cache import REUSE_STEP
from isoprefill.models.config.experts import Experts
from isoprefill.request.token_request import TokenRequest
from isoprefill_pallas.block_sizes import BlockSizes
from pairwise import cases
from unpacked_params import unpacked_engine

RANDOM = np.random.default_rng(0)
DELIMITER_ID = 0
QUERY = RANDOM.integers(1, 250, 40).tolist()
ITEMS = [RANDOM.integers(1, 250, length).tolist() for length in [5, 1, 9, 2, 3, 7, 4]]
LABELS = [[3, 99], [5], [6, 7], [8, 9], [10, 11], [12], [13, 14]]
# The items with one label need no branches: packs with and without them are side by side.
SEQUENCES = LabelSets.per_item(
    [[[3, 99, 4], [5, 3, 1]], [[5]], [[6, 7, 8]]] + [[[8]]] * 4, in_sequence=True
)
KINDS = {"likelihood": None, "labels": LABELS, "labels of several tokens": SEQUENCES}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """8 KV heads, each used by two query heads; 300 tokens, which 8 devices share in unequal parts."""
    random = small_models.random_model(
        "qwen2", num_hidden_layers=2, num_attention_heads=16, num_key_value_heads=8, head_dim=16
    )
    directory = save_directory(random, tmp_path_factory.mktemp("model"))
    return ScoringEngine.from_pretrained(directory).model


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize(
    "case",
    cases(
        {
            "mesh": ["tensor=1", "tensor=2", "tensor=4", "tensor=8", "data=8", "data=2,tensor=4"],
            "algorithm": [
                "packed",
                "prefill_extend",
                "packed_extend",
            ],  # serial runs what packed runs
            "kind": ["likelihood", "labels", "labels of several tokens"],
            "delimiter": ["none", "prefix_first"],
        }
    ),
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_a_mesh_scores_as_one_device(model, case):
    """Packs of two or three items: some data shards of the last round have none."""
    options = {
        "label_token_ids": KINDS[case["kind"]],
        "algorithm": case["algorithm"],
        "delimiter": case["delimiter"],
        "delimiter_id": None if case["delimiter"] == "none" else DELIMITER_ID,
    }
    budgets = {"pack_tokens": len(QUERY) + 16, "chunk_tokens": 16}
    one = ScoringEngine(model, **budgets).score(QUERY, ITEMS, **options)
    mesh = ScoringEngine(model, mesh=MeshShape.parse(case["mesh"]), **budgets)
    many = mesh.score(QUERY, ITEMS, **options)
    np.testing.assert_allclose(many.logprobs, one.logprobs, atol=TOLERANCE)
    if case["algorithm"] == "packed_extend":  # over keys and values that lie on several devices
        kept, longer = QUERY * 4, QUERY * 4 + [7] * 5
        budgets["pack_tokens"] = len(longer) + 16
        mesh = ScoringEngine(model, mesh=MeshShape.parse(case["mesh"]), **budgets)
        mesh.score(kept, ITEMS, **options)
        again = mesh.score(longer, ITEMS, **options)
        assert again.cached_tokens == REUSE_STEP < len(kept)
        plain = ScoringEngine(model, **budgets).score(longer, ITEMS, **options)
        np.testing.assert_allclose(again.logprobs, plain.logprobs, atol=TOLERANCE)


def test_neighbours_change_no_bit_on_several_cpus(model):
    """Not by their number either: a CPU adds up devices in one order, wherever in the pack a row is."""
    engine = ScoringEngine(model, mesh=MeshShape(tensor=8))
    alone = engine.score(QUERY, ITEMS[:1], algorithm="packed").logprobs[0]
    for before in (ITEMS[1:3], ITEMS[1:] * 3):
        found = engine.score(QUERY, [*before, ITEMS[0]], algorithm="packed").logprobs[-1]
        assert found == alone


@pytest.mark.parametrize("family", ["gemma2", "granite", "olmo2", "qwen3_moe", "gpt_oss"])
def test_norms_after_a_sum_and_scales_on_two_devices(tmp_path, monkeypatch, family):
    """What a part adds is normalised or scaled once, after the sum over the devices; OLMo 2 norms the heads of both.

    Each has half of every expert, and gpt-oss adds biases to the experts' sums, once. So with plain weights, too.
    """
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
    if family == "qwen3_moe":
        sizes["moe_intermediate_size"] = 38
    random = small_models.random_model(family, **sizes)
    one = ScoringEngine.from_pretrained(save_directory(random, tmp_path))
    two = ScoringEngine(one.model, mesh=MeshShape(tensor=2))
    engines = [one, two, unpacked_engine(one.model, monkeypatch, mesh=MeshShape(tensor=2))]
    scores = [engine.score(QUERY, ITEMS, algorithm="packed").logprobs for engine in engines]
    for of_two in scores[1:]:
        np.testing.assert_allclose(of_two, scores[0], atol=TOLERANCE)


def test_a_mesh_reads_classes_as_one_device(tmp_path):
    """Every device has the whole head: its logits must not be added up over the devices. One pack has vectors."""
    random = small_models.random_classifier("qwen2", True, num_hidden_layers=1, num_labels=3)
    loaded = ScoringEngine.from_pretrained(save_directory(random, tmp_path)).model
    one = ScoringEngine(loaded).score(QUERY, ITEMS, return_pooled_hidden_states=True)
    mesh = ScoringEngine(loaded, mesh=MeshShape(data=2, tensor=2), pack_tokens=len(QUERY) + 16)
    weights = random.get_input_embeddings().weight.detach().numpy()
    items = [weights[ITEMS[0]], *ITEMS[1:]]
    many = mesh.score(QUERY, items, return_pooled_hidden_states=True)
    np.testing.assert_allclose(many.scores, one.scores, atol=TOLERANCE)
    np.testing.assert_allclose(many.pooled_hidden_states, one.pooled_hidden_states, atol=TOLERANCE)


def test_weights_and_keys_are_shared_out_and_not_copied(model):
    """Each of eight devices has an eighth of the heads."""
    engine = ScoringEngine(model, mesh=MeshShape(tensor=8))
    engine.score(QUERY, ITEMS, algorithm="packed_extend")
    layers = engine._executor.runner.params.layers
    for name, axis in (("query", 1), ("output", 2), ("gate", 1), ("down", 2), ("key_bias", 1)):
        (weight,) = jax.tree.leaves(getattr(layers, name))
        local = weight.addressable_shards[0].data
        assert local.shape[axis] * 8 == weight.shape[axis], name
    keys = next(iter(engine._executor.cache._prefixes.values())).state.keys
    assert keys.addressable_shards[0].data.shape[2] == 1


def test_real_weights_on_two_devices():
    """SmolLM2 has 9 query and 3 KV heads: its packs are shared out, not its heads."""
    one = ScoringEngine.from_pretrained("smollm2-135m", pack_tokens=16)
    two = ScoringEngine(one.model, pack_tokens=16, mesh=MeshShape(data=2))
    items = [" Paris", " London", " Berlin, of course", " a town on the Seine", " banana"]
    scores = [
        engine.score("The capital of France is", items, algorithm="packed").scores
        for engine in (one, two)
    ]
    np.testing.assert_allclose(scores[1], scores[0], atol=TOLERANCE)
    with pytest.raises(ValueError, match="9 query heads, 3 KV heads and intermediate size 1536"):
        ScoringEngine(one.model, mesh=MeshShape(tensor=2))


def test_the_kernel_takes_packs_of_different_kinds_side_by_side(tmp_path, monkeypatch):
    """Long prefixes have other block sizes than short ones, and one program computes both shards."""
    random = small_models.random_model(
        "llama", num_hidden_layers=1, head_dim=64, num_attention_heads=4, num_key_value_heads=2
    )
    one = ScoringEngine.from_pretrained(save_directory(random, tmp_path))
    long = BlockSizes(256, 256, 128, 128, 128, 2, 160, 100)
    short = BlockSizes(128, 256, 128, 128, 128, 2, 160, 0)
    chosen = []

    def choose(chip, heads, row_intervals, num_columns, window=None):
        chosen.append(long if row_intervals[1].max() > 100 else short)
        return chosen[-1]

    monkeypatch.setattr("isoprefill_pallas.schedule.choose_block_sizes", choose)
    requests = [TokenRequest(np.arange(20, 20 + n, dtype=np.int32), items(n)) for n in (150, 30)]
    engine = ScoringEngine(one.model, attention="pallas", pack_tokens=200, mesh=MeshShape(data=2))
    two_shards = engine.score_batch(requests, algorithm="packed")
    for request, seen in zip(requests, two_shards, strict=True):
        (expected,) = one.score_batch([request], algorithm="serial")
        np.testing.assert_allclose(seen.logprobs, expected.logprobs, atol=TOLERANCE)
    assert chosen == [long]  # for both


def items(seed: int) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    return tuple(random.integers(1, 250, length).astype(np.int32) for length in (5, 1, 9))


def test_what_cannot_be_shared_out_is_rejected_with_the_numbers(model):
    config = model.config
    with pytest.raises(
        ValueError, match=r"tensor=3 must divide .* num_query_heads = 16.* 1, 2, 4, 8"
    ):
        make_mesh(MeshShape(tensor=3), config)
    odd = dataclasses.replace(config, intermediate_size=98)
    with pytest.raises(ValueError, match=r"tensor=4 must divide .* intermediate_size = 98.* 1, 2"):
        make_mesh(MeshShape(tensor=4), odd)
    mixture = dataclasses.replace(config, experts=Experts(4, 2, width=98, normalised=True))
    with pytest.raises(ValueError, match=r"tensor=4 must divide .* expert_width = 98.* 1, 2"):
        make_mesh(MeshShape(tensor=4), mixture)
    with pytest.raises(ValueError, match=r"data=2,tensor=8 needs 16 devices, but there are 8"):
        make_mesh(MeshShape(2, 8), config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "like 'data=2,tensor=4', got ''"),
        ("data=2,data=2", "got 'data=2,data=2'"),
        ("pipeline=2", "got 'pipeline=2'"),
        ("data=0", "mesh data must be at least 1, got 0"),
    ],
)
def test_bad_meshes_are_rejected(text, message):
    with pytest.raises(ValueError, match=message):
        MeshShape.parse(text)
    assert MeshShape.parse(" tensor=4 , data=2") == MeshShape(2, 4)
