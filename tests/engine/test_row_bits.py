"""On a CPU, an item's bits depend on the query, on the item and on nothing else, in every dtype.

If one of these fails, an answer changes with what else a server scores at the same time, or with the order of a
list. The numbers of rows are those at which the engine changes something: the sizes that packs are padded to, and those
from which C++ shares rows out to threads (csrc/block_product.h).
"""

import dataclasses
import functools

import numpy as np
import pytest

import small_models
from huggingface_directory import save_directory
from isoprefill import ScoringEngine
from isoprefill.models.pretrained import load_pretrained

QUERY = [7, 3, 99, 12, 5]
ITEM = [11, 200, 4, 18, 77, 150, 9]
LABELS = [3, 99]
ROWS = (16, 17, 32, 33, 63, 64, 65, 95, 96, 97, 128, 129, 191, 192, 193, 256, 500, 513, 1000)
FAMILY = {"hidden_size": 80, "intermediate_size": 176, "num_hidden_layers": 2}  # not of whole tiles


@functools.cache
def engine(directory, dtype: str) -> ScoringEngine:
    return ScoringEngine.from_pretrained(directory, dtype, attention="cpu")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    model = small_models.random_model("qwen3", **FAMILY)
    return save_directory(model, tmp_path_factory.mktemp("model"))


def neighbours(num_tokens: int, rng: np.random.Generator) -> list[list[int]]:
    """Items of random lengths and tokens, so many tokens in all."""
    items = []
    while num_tokens > 0:
        length = min(num_tokens, int(rng.integers(1, 40)))
        items.append(rng.integers(0, 250, length).tolist())
        num_tokens -= length
    return items


def bits(scorer, labels, algorithm, items, place) -> bytes:
    scorer.clear_prefix_cache()
    logprobs = scorer.score(QUERY, items, labels, algorithm=algorithm).logprobs
    return np.asarray(logprobs)[place].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "likelihoods"])
@pytest.mark.parametrize("algorithm", ["packed", "packed_extend"])
def test_bits_do_not_depend_on_the_number_of_rows(directory, dtype, labels, algorithm):
    scorer = engine(directory, dtype)
    rng = np.random.default_rng(0)
    alone = bits(scorer, labels, "serial", [ITEM], 0)
    for rows in ROWS:
        items = neighbours(rows - len(QUERY) - len(ITEM), rng)
        place = int(rng.integers(0, len(items) + 1))
        items.insert(place, ITEM)
        assert bits(scorer, labels, algorithm, items, place) == alone, rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_do_not_depend_on_the_number_of_rows_in_sliding_windows(directory, dtype):
    """With a window that ends in the middle of blocks of columns, in one of two layers, and capped scores."""
    model = load_pretrained(directory, dtype)
    config = dataclasses.replace(
        model.config,
        sliding_window=90,
        windowed_layers=(True, False),
        query_scale=0.5,
        score_softcap=3.0,
    )
    scorer = ScoringEngine(dataclasses.replace(model, config=config), attention="cpu")
    rng = np.random.default_rng(2)
    query, item = rng.integers(0, 250, 151).tolist(), rng.integers(0, 250, 135).tolist()
    alone = scorer.score(query, [item], algorithm="serial").logprobs[0]
    for rows in (1, 33, 192, 700):
        items = neighbours(rows, rng)
        place = int(rng.integers(0, len(items) + 1))
        items.insert(place, item)
        for algorithm in ("packed", "packed_extend"):
            found = scorer.score(query, items, algorithm=algorithm).logprobs[place]
            assert found == alone, (rows, algorithm)
    whole = ScoringEngine(model, attention="cpu").score(query, [item], algorithm="serial")
    assert whole.logprobs[0] != alone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", [None, 90])
def test_bits_do_not_depend_on_what_the_cache_holds(directory, dtype, window):
    """A query that begins like an earlier one continues its keys and values, which must not show."""
    model = load_pretrained(directory, dtype)
    if window is not None:
        config = dataclasses.replace(
            model.config, sliding_window=window, windowed_layers=(True, False)
        )
        model = dataclasses.replace(model, config=config)
    scorer = ScoringEngine(model, attention="cpu")
    rng = np.random.default_rng(3)
    query = rng.integers(0, 250, 300).tolist()
    items = [ITEM, *neighbours(60, rng)]
    alone = scorer.score(query, items, algorithm="serial").logprobs
    reused = set()
    for begins_alike in (100, 128, 200, 256, 290):
        scorer.clear_prefix_cache()
        scorer.score(query[:begins_alike], items, algorithm="packed_extend")
        before = scorer.prefix_cache_stats.tokens_reused
        found = scorer.score(query, items, algorithm="packed_extend").logprobs
        reused.add(scorer.prefix_cache_stats.tokens_reused - before)
        np.testing.assert_array_equal(found, alone, err_msg=str(begins_alike))
    assert reused == {0, 128, 256}  # or nothing was continued


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_do_not_depend_on_packs_or_on_other_requests(directory, dtype):
    """However a list is cut into packs and chunks, and whatever other requests share a pack."""
    whole = engine(directory, dtype)
    items = [ITEM, *neighbours(300, np.random.default_rng(1))]
    expected = whole.score(QUERY, items, algorithm="packed").logprobs
    cut = ScoringEngine(whole.model, attention="cpu", pack_tokens=70, chunk_tokens=48)
    for algorithm in ("packed", "packed_extend"):
        found = cut.score(QUERY, items, algorithm=algorithm).logprobs
        np.testing.assert_array_equal(found, expected)
    requests = [whole.preparer.request(QUERY, items), whole.preparer.request(ITEM, items[:3])]
    for batch in (requests, requests[::-1]):
        found = whole.score_batch(batch, algorithm="packed")[batch.index(requests[0])]
        np.testing.assert_array_equal(found.logprobs, expected)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("gemma2", "bfloat16"),
        ("olmo2", "float32"),
        ("granite", "float32"),
        ("qwen3_moe", "float32"),
        ("mixtral", "bfloat16"),
        ("gpt_oss", "float32"),
        ("gpt_oss", "bfloat16"),
    ],
)
def test_bits_of_other_families(family, dtype, tmp_path):
    """With norms over a projection and after each part, windows, scales and caps: each is a step in C++ of its own.

    Rows that choose one expert are computed together, so other rows decide beside which a row is.
    """
    model = small_models.random_model(family)
    scorer = engine(save_directory(model, tmp_path), dtype)
    rng = np.random.default_rng(0)
    for labels in (LABELS, None):
        alone = bits(scorer, labels, "serial", [ITEM], 0)
        for rows in (33, 97, 193, 500):
            items = neighbours(rows - len(QUERY) - len(ITEM), rng)
            items.insert(1, ITEM)
            assert bits(scorer, labels, "packed", items, 1) == alone, rows
