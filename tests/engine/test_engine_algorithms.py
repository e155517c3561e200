"""Every way to compute scores gives what query + item alone gives: by transformers in float64, on small random models.

If one of these fails, an algorithm, a chunk size, a delimiter or the prefix cache changes scores.
"""

import dataclasses
import os
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import small_models
from isoprefill import LabelSets, ScoringEngine, Workload
from isoprefill.execution import memory
from isoprefill.request.errors import MissingLogprobError, RequestError
from pairwise import cases
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
ALGORITHMS = ["serial", "packed", "prefill_extend", "packed_extend"]


@pytest.fixture(scope="module")
def model_and_oracle(tmp_path_factory):
    model = small_models.random_model("llama", num_hidden_layers=2)
    directory = small_models.save_directory(model, tmp_path_factory.mktemp("model"))
    return ScoringEngine.from_pretrained(directory).model, Oracle(model)


def expected(oracle, kind, delimiter):
    query = [*QUERY, DELIMITER_ID] if delimiter == "prefix_first" else QUERY
    if kind == "labels":
        return np.array([oracle.labels(query, item, LABELS) for item in ITEMS])
    return np.array([oracle.tokens(query, item).sum() for item in ITEMS])


def delimiter_arguments(delimiter: str) -> dict[str, Any]:
    return {
        "delimiter": delimiter,
        "delimiter_id": None if delimiter == "none" else DELIMITER_ID,
    }


@pytest.mark.parametrize(
    "case",
    cases(
        {
            "algorithm": ALGORITHMS,
            "items_at_once": [1, 2, 7, 64, "all"],
            "delimiter": ["none", "hidden", "prefix_first"],
            "cache": ["miss", "hit"],
            "kind": ["likelihood", "labels"],
        }
    ),
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_scores_equal_query_and_item_alone(model_and_oracle, case):
    model, oracle = model_and_oracle
    count = len(ITEMS) if case["items_at_once"] == "all" else case["items_at_once"]
    rows = count * (MEAN_LENGTH + (case["delimiter"] != "none"))
    engine = ScoringEngine(
        model, pack_tokens=len(QUERY) + rows if count < len(ITEMS) else 10_000, chunk_tokens=rows
    )
    arguments = {
        "query": QUERY,
        "label_token_ids": LABELS if case["kind"] == "labels" else None,
        "algorithm": case["algorithm"],
        **delimiter_arguments(case["delimiter"]),
    }
    if case["cache"] == "hit":
        engine.score(items=ITEMS[3:5], **arguments)
    result = engine.score(items=ITEMS, **arguments)
    keeps = case["algorithm"] in ("prefill_extend", "packed_extend")
    prefix = len(QUERY) + (case["delimiter"] == "prefix_first")
    assert result.cached_tokens == (prefix if keeps and case["cache"] == "hit" else 0)
    assert (result.algorithm, result.reason) == (case["algorithm"], "asked for")
    difference = np.abs(result.logprobs - expected(oracle, case["kind"], case["delimiter"]))
    assert difference.max() <= TOLERANCE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_labels_of_several_tokens_and_the_logprobs_of_items_tokens(model_and_oracle, algorithm):
    """A label's probability is the sum of its tokens'; both kinds of read-out come from one prefill."""
    model, oracle = model_and_oracle
    labels = LabelSets.parse([[[3, 99], [7]], [[5]], [[256, 3], [298], [4, 6, 8]]])
    result = ScoringEngine(model).score(
        QUERY, ITEMS[:3], labels, algorithm=algorithm, return_token_logprobs=True
    )
    everything = range(small_models.VOCAB_SIZE)
    for item, sets, row, tokens in zip(
        ITEMS[:3], labels.token_ids, result.logprobs, result.token_logprobs, strict=True
    ):
        by_token = oracle.labels(QUERY, item, everything)
        for label, logprob in zip(sets, row, strict=True):
            ids = label[label >= 0]
            expected = np.logaddexp.reduce(by_token[ids]) if ids.size else -np.inf
            np.testing.assert_allclose(logprob, expected, atol=TOLERANCE)
        np.testing.assert_allclose(tokens, oracle.tokens(QUERY, item), atol=TOLERANCE)
    assert result.num_labels.tolist() == [2, 1, 3]


def test_requests_of_all_kinds_share_packs(model_and_oracle):
    """A server packs whatever is waiting: labels must not land on another request's items."""
    model, oracle = model_and_oracle
    engine = ScoringEngine(model, pack_tokens=160)
    make = engine.preparer.request
    requests = [
        make(QUERY, ITEMS[:5], request_id="likelihoods"),
        make(QUERY[:7], ITEMS[5:9], LABELS),
        make(QUERY[3:], ITEMS[:4], [[1], [2, 3, 4], [5, 6], [7]]),
        make(QUERY, ITEMS[2:4], item_first=True),
        make(QUERY[:3], ITEMS[:3], delimiter="hidden", delimiter_id=DELIMITER_ID),
        make(QUERY[:3], ITEMS[:30], LABELS, delimiter="prefix_first", delimiter_id=DELIMITER_ID),
    ]
    for algorithm in ("packed", "auto", "serial"):
        results = [one.logprobs for one in engine.score_batch(requests, algorithm=algorithm)]
        wanted = [
            [oracle.tokens(QUERY, item).sum() for item in ITEMS[:5]],
            [oracle.labels(QUERY[:7], item, LABELS) for item in ITEMS[5:9]],
            None,
            [oracle.tokens(item, QUERY).sum() for item in ITEMS[2:4]],
            [oracle.tokens(QUERY[:3], item).sum() for item in ITEMS[:3]],
            [oracle.labels([*QUERY[:3], DELIMITER_ID], item, LABELS) for item in ITEMS[:30]],
        ]
        for result, values in zip(results, wanted, strict=True):
            if values is not None:
                np.testing.assert_allclose(result, values, atol=TOLERANCE)
        for item, labels, row in zip(
            ITEMS[:4], [[1], [2, 3, 4], [5, 6], [7]], results[2], strict=True
        ):
            values = oracle.labels(QUERY[3:], item, labels)
            np.testing.assert_allclose(row[: len(labels)], values, atol=TOLERANCE)
            assert np.isneginf(row[len(labels) :]).all()


def test_many_items_stay_within_the_memory_of_one_chunk(model_and_oracle):
    """The rows of a step are bounded by the budget and not by the list; one long item still fits."""
    model, oracle = model_and_oracle
    engine = ScoringEngine(model, chunk_tokens=64)
    rows = []
    steps = engine._device.steps
    engine._device = dataclasses.replace(
        engine._device,
        steps=steps._replace(
            extend=lambda params, pack, *rest: (
                rows.append(pack.token_ids.shape[1]) or steps.extend(params, pack, *rest)
            )
        ),
    )
    items = [*ITEMS * 3, ITEMS[0] * 20]
    result = engine.score(QUERY, items, algorithm="packed_extend")
    assert set(rows) == {64, 128}
    assert rows.count(128) == 1  # the long one
    assert len(rows) > 10
    np.testing.assert_allclose(
        result.logprobs[-1], oracle.tokens(QUERY, items[-1]).sum(), atol=TOLERANCE
    )


def test_a_step_is_as_large_as_memory_has_room_for(model_and_oracle, monkeypatch):
    """A large model must not be given the rows of a small one; what auto chooses follows."""
    model, _ = model_and_oracle
    smollm2 = dataclasses.replace(
        model.config,
        hidden_size=576,
        num_query_heads=9,
        num_kv_heads=3,
        head_dim=64,
        intermediate_size=1536,
    )
    assert 37_000 < memory.row_bytes(smollm2) < 39_000
    assert memory.rows_that_fit(smollm2, 8 << 30) == 16_384
    assert memory.rows_that_fit(smollm2, 1 << 30) == 2_048
    assert memory.rows_that_fit(smollm2, 0) == memory.FEWEST_ROWS
    total = memory.free_bytes(model.params)
    assert 0 < total < 1 << 50
    accelerator = types.SimpleNamespace(
        memory_stats=lambda: {"bytes_limit": 16 << 30, "bytes_in_use": 6 << 30}
    )
    with monkeypatch.context() as patched:
        patched.setattr("jax.local_devices", lambda: [accelerator])
        assert memory.free_bytes(model.params) == 10 << 30
    monkeypatch.setattr("isoprefill.execution.engine.free_bytes", lambda params: 0)
    result = ScoringEngine(model).score(QUERY, ITEMS * 2)
    assert result.algorithm == "packed_extend"
    assert f"more than fit into one prefill ({memory.FEWEST_ROWS})" in result.reason


GROUP_FILES = {
    "own group": ("0::/a/b\n", {"a/b/memory.max": "1048576\n"}, 1 << 20),
    "a group above it": (
        "0::/a/b\n",
        {"a/b/memory.max": "max\n", "a/memory.max": "1048576\n", "memory.max": "2097152\n"},
        1 << 20,
    ),
    "root is the own group": ("0::/docker/1f2e\n", {"memory.max": "1048576\n"}, 1 << 20),
    "outside its name space": ("0::/../../a\n", {"memory.max": "1048576\n"}, 1 << 20),
    "version 1": (
        "4:cpu,memory:/a:b\n3:cpu:/\n0::/\n",
        {"memory/a:b/memory.limit_in_bytes": "1048576\n"},
        1 << 20,
    ),
    "version 1, no limit": (
        "4:memory:/\n",
        {"memory/memory.limit_in_bytes": "9223372036854771712\n"},
        None,
    ),
    "version 2, no limit": ("0::/a\n", {"a/memory.max": "max\n"}, None),
    "no files": ("0::/a\n4:memory:/a\n", {}, None),
    "no control groups": (None, {}, None),
}


@pytest.mark.parametrize(("own", "files", "limit"), GROUP_FILES.values(), ids=GROUP_FILES.keys())
def test_memory_of_a_cpu_is_at_most_its_containers(monkeypatch, tmp_path, own, files, limit):
    """Else a large machine's small container is given steps that it has no memory for."""
    groups = tmp_path / "groups"
    for name, text in files.items():
        path = groups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if own is not None:
        (tmp_path / "own").write_text(own)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", groups)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cpu = types.SimpleNamespace(memory_stats=lambda: None)
    monkeypatch.setattr("jax.local_devices", lambda: [cpu])
    monkeypatch.setattr("jax.local_device_count", lambda: 1)
    weights = np.zeros(1000, np.uint8)
    assert memory.free_bytes([weights]) == (limit or machine) - 1000


def test_streaming_reads_no_further_than_a_result_needs(model_and_oracle):
    model, _ = model_and_oracle
    engine = ScoringEngine(model)
    taken = []

    def endless():
        for index in range(1_000_000):
            taken.append(index)
            yield ITEMS[index % len(ITEMS)]

    stream = engine.score_stream(QUERY, endless(), items_at_once=32, label_token_ids=LABELS)
    first, second = next(stream), next(stream)
    assert len(taken) == 64
    whole = engine.score(QUERY, ITEMS[:64], LABELS, algorithm="packed_extend")
    np.testing.assert_allclose(
        np.concatenate([first.logprobs, second.logprobs]), whole.logprobs, atol=TOLERANCE
    )
    assert (first.cached_tokens, second.cached_tokens) == (0, len(QUERY))
    with pytest.raises(ValueError, match="items_at_once must be at least 1, got 0"):
        next(engine.score_stream(QUERY, ITEMS, items_at_once=0))


@pytest.mark.parametrize(
    ("items", "code"),
    [
        ("abc", "invalid_items_type"),
        ({"a": 1}, "invalid_items_type"),
        ({"a", "b"}, "invalid_items_type"),
        (7, "invalid_items_type"),
        ([], "empty_items"),
        (iter(()), "empty_items"),
    ],
)
@pytest.mark.parametrize("labels", [None, [1, 2], [[1], [2]]])
def test_a_stream_refuses_what_score_refuses(model_and_oracle, items, code, labels):
    """Else a text is taken for a list of its characters, and a list that is empty by mistake for a job that is done."""
    engine = ScoringEngine(model_and_oracle[0])
    for refused in (
        lambda: engine.score(QUERY, items, labels),
        lambda: next(engine.score_stream(QUERY, items, labels)),
    ):
        with pytest.raises(RequestError) as error:
            refused()
        assert error.value.code == code


def test_a_stream_takes_labels_for_each_item(model_and_oracle):
    """As `score` does; lists that are too few or too many are refused, and none is taken for another item's."""
    engine = ScoringEngine(model_and_oracle[0])
    items, labels = ITEMS[:5], [[index, index + 1] for index in range(5)]
    stream = list(engine.score_stream(QUERY, items, labels, items_at_once=2))
    whole = engine.score(QUERY, items, labels, algorithm="packed_extend")
    np.testing.assert_allclose(
        np.concatenate([part.logprobs for part in stream]), whole.logprobs, atol=TOLERANCE
    )
    for given, parts in ((labels[:1], 0), (labels[:3], 1), (labels[:4], 2), ([*labels, [1]], 3)):
        stream = engine.score_stream(QUERY, items, given, items_at_once=2)
        for _ in range(parts):
            next(stream)
        with pytest.raises(RequestError, match=f"got {len(given)} lists"):
            next(stream)


@pytest.mark.parametrize(
    ("arguments", "algorithm", "reason"),
    [
        ({}, "packed", "fit into one prefill"),
        ({"isolation": "causal"}, "packed", "items that see each other need one prefill"),
        ({"item_first": True}, "packed", "no common prefix to keep"),
        ({"items": ITEMS * 3}, "packed_extend", "more than fit into one prefill"),
        ({"query": QUERY * 10, "items": ITEMS[:2]}, "packed_extend", "kept for later calls"),
    ],
    ids=["short", "causal", "item first", "many items", "long query"],
)
def test_auto_says_what_it_chose_and_why(
    model_and_oracle, arguments, algorithm, reason, monkeypatch
):
    monkeypatch.setattr("isoprefill.execution.choice.LONG_QUERY", 300)
    engine = ScoringEngine(model_and_oracle[0], pack_tokens=500)
    result = engine.score(**{"query": QUERY, "items": ITEMS[:5], **arguments})
    assert result.algorithm == algorithm
    assert reason in result.reason


def test_auto_keeps_a_query_that_comes_again(model_and_oracle, caplog):
    """First in one prefill, then its keys and values are computed, then they are there."""
    engine = ScoringEngine(model_and_oracle[0])
    query = QUERY * 2
    with caplog.at_level("INFO", logger="absl"):
        results = [engine.score(query, ITEMS[:5]) for _ in range(3)]
    assert [one.algorithm for one in results] == ["packed", "packed_extend", "packed_extend"]
    assert [one.cached_tokens for one in results] == [0, 0, len(query)]
    assert "in the prefix cache" in results[2].reason
    assert "5 items over 80 query tokens: packed_extend, because the query is in" in caplog.text
    for one in results[1:]:
        np.testing.assert_allclose(one.logprobs, results[0].logprobs, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("delimiter", "dtype"), [("none", "float32"), ("prefix_first", "float32"), ("none", "bfloat16")]
)
def test_auto_does_not_pay_for_keeping_what_is_not_kept(
    model_and_oracle, delimiter, dtype, monkeypatch
):
    """A cache of no bytes, or of one too few, keeps no query, long or come again; one of enough does."""
    monkeypatch.setattr("isoprefill.execution.choice.LONG_QUERY", 300)
    model, _ = model_and_oracle
    model = dataclasses.replace(
        model, params=jax.tree.map(lambda leaf: leaf.astype(dtype), model.params)
    )
    options = {"items": ITEMS[:2], **delimiter_arguments(delimiter)}
    for query in (QUERY * 8, QUERY * 2):  # long; at its second time
        engine = ScoringEngine(model)
        engine.score(query, algorithm="packed_extend", **options)
        takes = engine.prefix_cache_stats.num_bytes
        for budget, algorithm in ((0, "packed"), (takes - 1, "packed"), (takes, "packed_extend")):
            engine = ScoringEngine(model, prefix_cache_bytes=budget)
            first, again = (engine.score(query, **options) for _ in range(2))
            assert again.algorithm == algorithm
            if algorithm == "packed":
                assert first.algorithm == algorithm
                assert "kept" not in first.reason + again.reason


@pytest.mark.parametrize("algorithm", ["prefill_extend", "packed_extend"])
@pytest.mark.parametrize("length", [39, 41, 70], ids=["shorter", "one more", "longer"])
def test_a_query_that_begins_like_a_kept_one_reuses_it(model_and_oracle, algorithm, length):
    """The rest is computed over the kept keys and values, and is then kept itself."""
    model, oracle = model_and_oracle
    engine = ScoringEngine(model)
    engine.score(QUERY, ITEMS[:2], algorithm=algorithm)
    query = (QUERY * 2)[:length]
    results = [engine.score(query, ITEMS[:6], algorithm=algorithm) for _ in range(2)]
    assert [one.cached_tokens for one in results] == [32, length]
    for one in results:
        values = [oracle.tokens(query, item).sum() for item in ITEMS[:6]]
        np.testing.assert_allclose(one.logprobs, values, atol=TOLERANCE)
    stats = engine.prefix_cache_stats
    assert (stats.misses, stats.extensions, stats.hits, stats.num_prefixes) == (1, 1, 1, 2)
    assert stats.num_bytes > 0
    engine.clear_prefix_cache()
    assert engine.prefix_cache_stats.num_bytes == 0


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "auto"])
def test_a_warm_engine_compiles_nothing(model_and_oracle, algorithm):
    """Else the first requests of a service wait for the compiler."""
    engine = ScoringEngine(model_and_oracle[0], pack_tokens=300, chunk_tokens=100)
    workloads = [Workload(30, 25, 9, 2, algorithm), Workload(90, 3, 20, 0, algorithm)]
    told = []
    engine.warm_up(workloads, lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert engine.prefix_cache_stats.tokens_asked == 0, "the warm-up is in the counters"
    compiled = [step._cache_size() for step in engine._device.steps]
    assert sum(compiled) > 0
    for query, count, length, labels in ((30, 25, 9, [1, 2]), (90, 3, 20, None)):
        items = [[5] * length] * count
        for _ in range(3):  # what "auto" chooses changes
            engine.score([7] * query, items, labels, algorithm=algorithm)
    assert [step._cache_size() for step in engine._device.steps] == compiled


def test_workloads_are_read_and_checked():
    assert Workload.parse("2000+500x20:2@packed") == Workload(2000, 500, 20, 2, "packed")
    assert Workload.parse("300+10x20") == Workload(300, 10, 20, 0, "auto")
    for text, message in (
        ("2000", "workload must be like '2000.500x20'"),
        ("0+1x1", "query_tokens must be at least 1, got 0"),
        ("1+1x1@fast", "algorithm must be one of .* got 'fast'"),
    ):
        with pytest.raises(ValueError, match=message):
            Workload.parse(text)
    with pytest.raises(ValueError, match="num_labels must be at least 0, got -1"):
        Workload(1, 1, 1, -1)


@pytest.mark.parametrize("kind", ["likelihood", "labels"])
def test_a_missing_logprob_is_an_error_that_names_request_and_item(model_and_oracle, kind):
    """Weights that give NaN for one token: no score is made up for the item that holds it."""
    model, _ = model_and_oracle
    embedding = model.params.embedding.at[299].set(jnp.nan)
    broken = dataclasses.replace(model, params=model.params._replace(embedding=embedding))
    engine = ScoringEngine(broken)
    request = engine.preparer.request(
        QUERY,
        [*ITEMS[:2], [5, 299, 7]],
        LABELS if kind == "labels" else None,
        request_id="the second",
    )
    fine = engine.preparer.request(QUERY, ITEMS[:2], request_id="the first")
    message = r"request 'the second': items\[2\] has no log-probability"
    with pytest.raises(MissingLogprobError, match=message):
        engine.score_batch([fine, request], algorithm="serial")


def test_causal_scoring_sees_the_items_before(model_and_oracle):
    """The contaminated mode is what it says: each item after all before it."""
    model, oracle = model_and_oracle
    result = ScoringEngine(model).score(QUERY, ITEMS[:4], isolation="causal")
    before = list(QUERY)
    for item, logprob in zip(ITEMS[:4], result.logprobs, strict=True):
        assert abs(oracle.tokens(before, item).sum() - logprob) <= TOLERANCE
        before += item
    with pytest.raises(ValueError, match="no meaning with algorithm 'packed_extend'"):
        ScoringEngine(model).score(QUERY, ITEMS, isolation="causal", algorithm="packed_extend")
