"""Rows are scored as transformers scores each alone; a row that cannot be scored has its own code, and no other has.

If one of these fails, a row's score is another row's, or one bad row spoils its neighbours.
"""

import numpy as np
import pytest

from byte_level_tokenizer import byte_tokenizer
from huggingface_directory import save_directory
from isoprefill.batch.row_scoring import RowScorer
from isoprefill.batch.scoring_settings import ScoringSettings
from isoprefill.execution.engine import ScoringEngine
from isoprefill.request import label_texts
from scoring_oracle import Oracle
from small_models import random_model

QUERIES = ["red sky", "blue", [7, 3, 99]]
ITEMS = [" at night", " at dawn", " whale", " sea", " is", [5, 6]]


@pytest.fixture(scope="module")
def model():
    return random_model("llama", num_hidden_layers=2, max_position_embeddings=64)


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    return ScoringEngine.from_pretrained(save_directory(model, tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def oracle(engine, model):
    return Oracle(model)  # behind the engine: it changes the model's type


def ids(value):
    return value if isinstance(value, list) else byte_tokenizer().encode(value).ids


def rows():
    """Each query with several items, the rows of a query in one run."""
    pairs = [(query, item) for query in QUERIES for item in ITEMS]
    return [query for query, _ in pairs], [item for _, item in pairs]


def test_likelihoods(engine, oracle):
    queries, items = rows()
    found = RowScorer(engine, ScoringSettings()).score(queries, items)
    expected = [oracle.tokens(ids(q), ids(i)).sum() for q, i in zip(queries, items, strict=True)]
    np.testing.assert_allclose(found.scores[:, 0], expected, atol=1e-3)
    assert found.num_tokens.tolist() == [len(ids(item)) for item in items]
    assert found.errors == [None] * len(items)
    assert (found.widths == 1).all()


def test_labels_for_all(engine, oracle):
    queries, items = rows()
    settings = ScoringSettings(labels=("x", "y"), softmax=True)
    found = RowScorer(engine, settings).score(queries, items)
    pair = [byte_tokenizer().encode(label).ids[0] for label in "xy"]
    logs = np.asarray(
        [oracle.labels(ids(q), ids(i), pair) for q, i in zip(queries, items, strict=True)]
    )
    expected = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    assert found.num_tokens.tolist() == [len(ids(item)) for item in items]


def test_labels_of_each_row(engine, oracle):
    """A row's labels must not go to its neighbour."""
    queries, items = rows()
    labels = [["x", ["y", "z"], "w"][row % 3] for row in range(len(items))]
    found = RowScorer(engine, ScoringSettings(), label_column=True).score(queries, items, labels)
    for row, label in enumerate(labels):
        own = [byte_tokenizer().encode(one).ids[0] for one in label]
        expected = np.exp(oracle.labels(ids(queries[row]), ids(items[row]), own))
        np.testing.assert_allclose(found.scores[row, : len(own)], expected, atol=1e-4)
        assert found.widths[row] == len(own)


BAD = {
    "null": (None, "missing_items"),
    "empty": ("", "empty_item"),
    "no tokens": ([], "empty_item"),
    "too long": ("x" * 70, "context_length_exceeded"),
    "a number": (5, "invalid_items_type"),
    "an object": ({"a": 1}, "invalid_items_type"),
    "a list of text": (["a"], "invalid_items_type"),
    "a token that is none": ([100_000], "token_id_exceeds_vocab"),
    "a negative token": ([-1], "negative_token_id"),
}


@pytest.mark.parametrize(("bad", "code"), BAD.values(), ids=BAD.keys())
def test_a_bad_item_has_a_code_and_spoils_nothing(engine, bad, code):
    scorer = RowScorer(engine, ScoringSettings())
    good = scorer.score(["red sky"] * 6, ITEMS)
    items = [*ITEMS[:2], bad, *ITEMS[2:], bad]
    found = scorer.score(["red sky"] * 8, items)
    assert [place for place, error in enumerate(found.errors) if error] == [2, 7]
    assert found.errors[2] == found.errors[7] == code
    kept = [0, 1, 3, 4, 5, 6]
    assert found.scores[kept].tobytes() == good.scores.tobytes()
    assert np.isnan(found.scores[[2, 7]]).all()
    assert not found.widths[[2, 7]].any()


@pytest.mark.parametrize(
    ("bad", "code"),
    [(None, "missing_query"), (2.5, "invalid_query_type"), ("x" * 70, "context_length_exceeded")],
)
def test_a_bad_query_has_a_code_in_each_of_its_rows(engine, bad, code):
    scorer = RowScorer(engine, ScoringSettings())
    good = scorer.score(["red sky"] * 6, ITEMS)
    found = scorer.score(
        [*["red sky"] * 3, bad, bad, *["red sky"] * 3], [*ITEMS[:3], "a", "b", *ITEMS[3:]]
    )
    assert found.errors == [None] * 3 + [code] * 2 + [None] * 3
    assert found.scores[[0, 1, 2, 5, 6, 7]].tobytes() == good.scores.tobytes()


@pytest.mark.parametrize(
    ("label", "code"),
    [(None, "invalid_labels_type"), ([], "invalid_labels_type"), ("", "invalid_label")],
)
def test_a_bad_label_has_a_code(engine, label, code):
    scorer = RowScorer(engine, ScoringSettings(), label_column=True)
    found = scorer.score(["q"] * 3, [" a", " b", " c"], ["x", label, "y"])
    assert found.errors == [None, code, None]


def test_a_label_may_have_several_tokens(engine):
    """Beside labels of one token, which then have the same scores as alone."""
    scorer = RowScorer(engine, ScoringSettings(), label_column=True)
    found = scorer.score(["q"] * 2, [" a", " b"], ["x", "xy"])
    assert found.errors == [None, None]
    alone = [
        engine.score("q", [item], labels=[label]).scores
        for item, label in ((" a", "x"), (" b", "xy"))
    ]
    np.testing.assert_allclose(np.ravel(found.scores), np.ravel(alone), rtol=1e-6)


def test_labels_that_are_too_many_together_are_scored_in_parts(engine, monkeypatch):
    """One long label among the many rows of a query must not end the job; one that is too long alone has a code."""
    scorer = RowScorer(engine, ScoringSettings(), label_column=True)
    queries, items = ["q"] * 6, ITEMS
    labels = ["x", "y", "abcdef", "z", "abcdefghijkl", "w"]
    whole = scorer.score(queries, items, labels)
    assert whole.errors == [None] * 6
    monkeypatch.setattr(label_texts, "MOST_LABEL_TOKENS", 8)
    found = scorer.score(queries, items, labels)
    assert found.errors == [None, None, None, None, "too_many_labels", None]
    kept = [0, 1, 2, 3, 5]
    assert found.scores[kept].tobytes() == whole.scores[kept].tobytes()


def test_equal_items_are_scored_once(engine):
    """On request: the engine must see each text once, and every row must have its score."""
    items = [" a", " b", " a", "", " b", " a"]
    plain = RowScorer(engine, ScoringSettings()).score(["q"] * 6, items)
    once = RowScorer(engine, ScoringSettings(deduplicate=True)).score(["q"] * 6, items)
    assert once.scores.tobytes() == plain.scores.tobytes()
    assert (once.errors, once.num_tokens.tolist()) == (plain.errors, plain.num_tokens.tolist())
    assert (plain.work.items_computed, once.work.items_computed) == (5, 2)


def test_scores_do_not_depend_on_the_other_rows(engine):
    """Bit for bit: on this the output's independence of blocks and replicas rests."""
    queries, items = rows()
    scorer = RowScorer(engine, ScoringSettings())
    whole = scorer.score(queries, items).scores
    for begin, end in ((0, 1), (1, 7), (7, 8), (8, len(items))):
        part = scorer.score(queries[begin:end], items[begin:end]).scores
        assert part.tobytes() == whole[begin:end].tobytes()


@pytest.mark.parametrize("algorithm", ["packed", "packed_extend", "serial"])
def test_query_tokens_are_counted_as_they_are_computed(engine, algorithm):
    """The share in the summary tells a user whether rows of one query meet."""
    engine.clear_prefix_cache()
    scorer = RowScorer(engine, ScoringSettings(algorithm=algorithm))
    work = scorer.score(["abcdef"] * 4 + ["xyz"] * 2, [" a", " b", " c", " d", " e", " f"]).work
    assert work.query_tokens == 6 * 4 + 3 * 2
    assert work.query_tokens_computed == (30 if algorithm == "serial" else 9)
    assert (work.items_computed, work.item_tokens) == (6, 12)


@pytest.mark.parametrize(
    ("settings", "label_column", "message"),
    [
        (ScoringSettings(labels=("",)), False, "label"),
        (ScoringSettings(labels=("x",)), True, "either labels or label-column"),
        (ScoringSettings(softmax=True), False, "softmax needs labels"),
    ],
)
def test_settings_that_no_row_could_meet_end_the_job(engine, settings, label_column, message):
    with pytest.raises(ValueError, match=message):
        RowScorer(engine, settings, label_column=label_column)


def test_no_rows(engine):
    found = RowScorer(engine, ScoringSettings()).score([], [])
    assert found.scores.shape == (0, 1)
    assert found.errors == []
