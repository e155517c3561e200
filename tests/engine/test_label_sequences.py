"""Labels of several tokens score what query + item + label alone gives, by transformers in float64.

If one of these fails, a label's later tokens see something else than their own item and label, or a token is read at
another row than the one before it.
"""

import numpy as np
import pytest

import small_models
from engine_cases import (
    ALGORITHMS,
    DELIMITER_ID,
    QUERY,
    TOLERANCE,
    delimiter_arguments,
    make_model_and_oracle,
)
from huggingface_directory import save_directory
from isoprefill import LabelSets, ScoreOptions, ScoringEngine
from isoprefill.execution import model_runner, packing
from isoprefill.execution.branches import Branches
from isoprefill.request.errors import RequestError
from isoprefill.request.label_trie import LabelTrie
from pairwise import cases
from scoring_oracle import Oracle

RANDOM = np.random.default_rng(5)
ITEMS = [RANDOM.integers(1, 250, length).tolist() for length in (5, 1, 9, 70, 2)]
# Of one token; beginning alike; one the beginning of another; twice; long; a token again and again.
LABELS = [
    [7],
    [7, 8],
    [7, 8, 9, 4],
    [7, 3],
    [11, 8, 9],
    [7, 8],
    [12, 12, 12],
    [200, *range(20, 32)],
]
PER_ITEM = [LABELS[:3], [[3]], LABELS[3:7], [[5, 6], [5]], LABELS]
SHARED = LabelSets.shared(LABELS, in_sequence=True)


@pytest.fixture(scope="module")
def model_and_oracle(tmp_path_factory):
    return make_model_and_oracle(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(model_and_oracle):
    return ScoringEngine(model_and_oracle[0])


def expected(oracle, pairs, lists):
    """The log-probability of each label after each pair of texts; -inf where an item has no more labels."""
    table = np.full((len(pairs), max(map(len, lists))), -np.inf)
    for index, ((first, second), labels) in enumerate(zip(pairs, lists, strict=True)):
        table[index, : len(labels)] = [
            oracle.tokens([*first, *second], label).sum() for label in labels
        ]
    return table


@pytest.mark.parametrize(
    "case",
    cases(
        {
            "algorithm": [*ALGORITHMS, "auto"],
            "rows": [10, 400],
            "delimiter": ["none", "hidden", "prefix_first"],
            "per_item": [False, True],
            "item_first": [False, True],
        }
    ),
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_labels_equal_query_item_and_label_alone(model_and_oracle, case):
    """The second time the query is in the cache, if the algorithm has one."""
    model, oracle = model_and_oracle
    lists = PER_ITEM if case["per_item"] else [LABELS] * len(ITEMS)
    labels = LabelSets.per_item(PER_ITEM, in_sequence=True) if case["per_item"] else SHARED
    between = [DELIMITER_ID] if case["delimiter"] == "prefix_first" else []
    pairs = [([*QUERY, *between], item) for item in ITEMS]
    if case["item_first"]:
        pairs = [([*item, *between], QUERY) for item in ITEMS]
    engine = ScoringEngine(model, pack_tokens=case["rows"], chunk_tokens=case["rows"])
    for _ in range(2):
        result = engine.score(
            QUERY,
            ITEMS,
            labels,
            item_first=case["item_first"],
            algorithm=case["algorithm"],
            **delimiter_arguments(case["delimiter"]),
        )
        wanted = expected(oracle, pairs, lists)
        np.testing.assert_allclose(result.logprobs, wanted, atol=TOLERANCE)
        present = wanted > -np.inf
        assert np.abs(result.logprobs[present] - wanted[present]).mean() < TOLERANCE / 10
    assert result.num_labels.tolist() == [len(one) for one in lists]
    assert result.num_label_tokens[0, :3].tolist() == [1, 2, 4]
    np.testing.assert_allclose(result.scores, np.exp(wanted), atol=TOLERANCE)


@pytest.mark.parametrize("attention", ["xla", "dense"])
@pytest.mark.parametrize("algorithm", ["packed", "packed_extend"])
def test_every_back_end_takes_branches(model_and_oracle, attention, algorithm):
    """In "xla" a branch begins in the middle of a local block; the TPU kernel has its own tests of shared tokens."""
    model, oracle = model_and_oracle
    result = ScoringEngine(model, attention=attention).score(
        QUERY, ITEMS, SHARED, algorithm=algorithm
    )
    wanted = expected(oracle, [(QUERY, item) for item in ITEMS], [LABELS] * len(ITEMS))
    np.testing.assert_allclose(result.logprobs, wanted, atol=TOLERANCE)


def test_packed_bits_are_serial_bits(engine):
    """With "cpu" a label's bits depend on what it sees alone, whatever else is computed, and however."""
    serial = engine.score(QUERY, ITEMS, SHARED, algorithm="serial").logprobs
    for algorithm in ALGORITHMS:
        packed = engine.score(QUERY, ITEMS, SHARED, algorithm=algorithm).logprobs
        np.testing.assert_array_equal(packed, serial)
    alone = [
        [
            engine.score(QUERY, [item], LabelSets.shared([label], in_sequence=True)).logprobs[0, 0]
            for label in LABELS
        ]
        for item in ITEMS
    ]
    np.testing.assert_array_equal(serial, alone)


def test_labels_of_one_token_are_what_they_are_alone(engine):
    """Beside longer labels and as sequences of one token: to the bit, or thresholds would move with other labels."""
    single = [[7], [11], [12], [200]]
    plain = engine.score(QUERY, ITEMS, [label[0] for label in single], apply_softmax=True)
    as_sequences = engine.score(
        QUERY, ITEMS, LabelSets.shared(single, in_sequence=True), apply_softmax=True
    )
    np.testing.assert_array_equal(plain.scores, as_sequences.scores)
    mixed = LabelSets.shared([*single, [7, 8], [12, 7, 7]], in_sequence=True)
    np.testing.assert_array_equal(engine.score(QUERY, ITEMS, mixed).logprobs[:, :4], plain.logprobs)


def test_no_neighbour_changes_a_bit(engine):
    """Other items' tokens, lengths and order, and other labels' tokens, lengths and order."""
    original = engine.score(QUERY, ITEMS, SHARED).logprobs
    for kept in range(len(ITEMS)):
        others = [
            item if index == kept else [251 - token for token in item[: 1 + index]] * (1 + index)
            for index, item in enumerate(ITEMS)
        ]
        changed = engine.score(QUERY, others, SHARED).logprobs[kept]
        np.testing.assert_array_equal(changed, original[kept])
    np.testing.assert_array_equal(engine.score(QUERY, ITEMS[::-1], SHARED).logprobs[::-1], original)
    for kept in range(len(LABELS)):
        others = [
            label if index == kept else [251 - token for token in label[:2]] * (1 + index)
            for index, label in enumerate(LABELS)
        ]
        labels = LabelSets.shared(others, in_sequence=True)
        changed = engine.score(QUERY, ITEMS, labels).logprobs[:, kept]
        np.testing.assert_array_equal(changed, original[:, kept])
    labels = LabelSets.shared(LABELS[::-1], in_sequence=True)
    np.testing.assert_array_equal(engine.score(QUERY, ITEMS, labels).logprobs[:, ::-1], original)


def test_a_planted_fault_shows(engine, model_and_oracle, monkeypatch):
    """Labels in one branch see one another; a column that holds another row's key is another token. Both must show."""
    wanted = expected(model_and_oracle[1], [(QUERY, item) for item in ITEMS], [LABELS] * len(ITEMS))

    def error():
        logprobs = engine.score(QUERY, ITEMS, SHARED, algorithm="packed").logprobs
        return np.abs(logprobs - wanted).max()

    assert error() < TOLERANCE
    one_branch = property(lambda trie: np.arange(min(1, trie.depths.size)))
    with monkeypatch.context() as patch:
        patch.setattr(LabelTrie, "branches", one_branch)
        assert error() > 100 * TOLERANCE
    column_rows = model_runner._column_rows
    with monkeypatch.context() as patch:
        patch.setattr(
            model_runner, "_column_rows", lambda *given: np.maximum(column_rows(*given) - 1, 0)
        )
        assert error() > 100 * TOLERANCE


def test_no_row_is_computed_twice():
    """Of an item with labels only its tokens and each label's but the last, those that labels share once."""
    trie = LabelTrie.of(SHARED.token_ids[0])
    assert trie.tokens.size == 1 + 1 + 1 + 2 + 2 + 12  # 7; 8 and 9 after it; 11, 8; 12, 12; 200, …
    branches = Branches.of([np.arange(9, dtype=np.int32)], [trie], padded=False)
    assert sum(rows.size for rows in branches.rows) == 9 + trie.tokens.size
    assert branches.shared_lens.tolist() == [0, 9, 9, 9]
    assert LabelTrie.of(np.asarray([[5, 1], [5, 2], [5, -1]], np.int32)).tokens.tolist() == [5]


def test_reads_of_many_labels_stay_few(monkeypatch):
    """Thousands of labels with long tails must not become a table of every row by every label."""
    ids = np.concatenate([np.arange(2000)[:, None], np.full((2000, 20), 3)], axis=1).astype(
        np.int32
    )
    trie = LabelTrie.of(ids)
    assert trie.tokens.size == 2000 * 20
    assert trie.read.size <= 4 * ids.size
    assert trie.rows.size <= 2 * (trie.tokens.size + 1)
    values = np.random.default_rng(0).normal(size=trie.read.shape)
    places = {
        (row, token): values[at, k]
        for at, row in enumerate(trie.rows)
        for k, token in enumerate(trie.read[at])
    }
    node = 1 + 20 * 1234
    along = [places[0, 1234], *(places[node + step, 3] for step in range(20))]
    assert trie.log_probabilities(values)[1234] == pytest.approx(sum(along))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_item_with_too_many_branches_is_scored_some_labels_at_a_time(
    model_and_oracle, monkeypatch, algorithm
):
    """Keys and values that stand twice take memory: however many labels there are, a pack bounds them."""
    model, oracle = model_and_oracle
    monkeypatch.setattr(packing, "REPEATED_COLUMNS", 1)
    engine = ScoringEngine(model, pack_tokens=100, chunk_tokens=100)
    done = []
    items = [ITEMS[0], ITEMS[3], ITEMS[1]]
    lists = [LABELS, LABELS, LABELS[:2]]
    labels = LabelSets.per_item(lists, in_sequence=True)
    result = engine.score(
        QUERY, items, labels, algorithm=algorithm, on_progress=lambda *given: done.append(given)
    )
    wanted = expected(oracle, [(QUERY, item) for item in items], lists)
    np.testing.assert_allclose(result.logprobs, wanted, atol=TOLERANCE)
    assert done[-1] == (3, 3)
    assert len(done) > 4  # the item of 70 tokens takes several packs


def test_what_else_is_read_of_an_item_stays_the_same(engine):
    """Its tokens' log-probabilities and its hidden state are of the item, not of the labels after it."""
    options = {"return_token_logprobs": True, "return_pooled_hidden_states": True}
    plain = engine.score(QUERY, ITEMS, [7], **options)
    result = engine.score(QUERY, ITEMS, SHARED, **options)
    np.testing.assert_array_equal(result.pooled_hidden_states, plain.pooled_hidden_states)
    for ours, alone in zip(result.token_logprobs, plain.token_logprobs, strict=True):
        np.testing.assert_array_equal(ours, alone)


def test_a_stream_takes_them_too(engine):
    whole = engine.score(QUERY, ITEMS, LabelSets.per_item(PER_ITEM, in_sequence=True))
    parts = engine.score_stream(
        QUERY, iter(ITEMS), LabelSets.per_item(PER_ITEM, in_sequence=True), items_at_once=2
    )
    np.testing.assert_array_equal(np.concatenate([part.logprobs for part in parts]), whole.logprobs)


def test_windows_count_positions_of_item_and_label(tmp_path):
    """In a windowed layer a label's token sees the last positions before it: of its own branch, its item, the query."""
    model = small_models.random_model("mistral", sliding_window=6)
    engine = ScoringEngine.from_pretrained(save_directory(model, tmp_path))
    assert engine.model.config.windows == (6,)
    wanted = expected(Oracle(model), [(QUERY, item) for item in ITEMS], [LABELS] * len(ITEMS))
    for algorithm in ("packed", "packed_extend"):
        result = engine.score(QUERY, ITEMS, SHARED, algorithm=algorithm)
        np.testing.assert_allclose(result.logprobs, wanted, atol=TOLERANCE)


def test_refused_in_one_line(engine):
    """What has no meaning, or is not there yet."""
    for arguments, code, message in (
        ({"isolation": "causal"}, "invalid_isolation", "takes labels of one token only"),
        ({"extraction_token_id": 3}, "invalid_extraction_token", "labels of one token only"),
    ):
        with pytest.raises(RequestError, match=message) as caught:
            engine.score(QUERY, ITEMS, SHARED, **arguments)
        assert caught.value.code == code
    long = LabelSets.shared([[1] * engine.preparer.limits.max_positions], in_sequence=True)
    with pytest.raises(
        RequestError, match=r"items\[3\] and all but the last token .* got 40 \+ 70 \+ "
    ):
        engine.score(QUERY, ITEMS, long)
    for labels, code in (
        ([], "empty_label_token_ids"),
        ([["a"], []], "empty_label_token_ids"),
        ([""], "invalid_label"),
        ([1], "invalid_labels_type"),
        ("a", "invalid_labels_type"),
        ([["a"], "b"], "invalid_labels_type"),
    ):
        with pytest.raises(RequestError) as caught:
            engine.score(QUERY, ITEMS, labels=labels)
        assert caught.value.code == code
    with pytest.raises(RequestError, match="not both"):
        engine.score(QUERY, ITEMS, [1], labels=["a"])
    with pytest.raises(
        RequestError, match=r"at most 1048576 tokens in all.* 1 x 2 labels of up to"
    ):
        engine.score(QUERY, ITEMS, labels=["a", "ab " * 300_000])


def test_texts_are_tokenised_by_themselves(engine):
    """As an item's text is: whoever wants a word to follow a space writes the space."""
    texts = [" very good", "bad", " very bad"]
    encode = engine.model.tokenizer.encode
    ids = LabelSets.shared([encode(text, continues=True) for text in texts], in_sequence=True)
    by_text = engine.score("the film was", [" a", " bc"], labels=texts)
    by_ids = engine.score("the film was", [" a", " bc"], ids)
    np.testing.assert_array_equal(by_text.logprobs, by_ids.logprobs)
    assert (
        by_text.num_label_tokens.tolist() == [[len(encode(t, continues=True)) for t in texts]] * 2
    )
    likelihoods = [engine.score("the film was bc", [text]).logprobs[0] for text in texts]
    np.testing.assert_allclose(by_text.logprobs[1], likelihoods, atol=TOLERANCE)


def test_memory_and_time_of_labels_count(engine):
    """A server's limits and batches go by tokens: labels must not be free."""
    request = engine.preparer.request(QUERY, ITEMS, ScoreOptions(labels=SHARED))
    rows = LabelTrie.of(SHARED.token_ids[0]).tokens.size
    assert request.label_rows.tolist() == [rows] * len(ITEMS)
    assert request.num_rows == request.num_tokens + rows * len(ITEMS)
    assert request.num_computed_tokens > request.num_rows
    assert request.slice(1, 3).label_rows.tolist() == [rows] * 2
