"""A warm engine compiles nothing.

If one of these fails, the first requests of a service wait for the compiler.
"""

import pytest

from engine_cases import ALGORITHMS, make_model_and_oracle
from isoprefill import ScoringEngine, Workload


@pytest.fixture(scope="module")
def model_and_oracle(tmp_path_factory):
    return make_model_and_oracle(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "auto"])
def test_a_warm_engine_compiles_nothing(model_and_oracle, algorithm):
    """Else the first requests of a service wait for the compiler."""
    engine = ScoringEngine(model_and_oracle[0], pack_tokens=300, chunk_tokens=100)
    workloads = [Workload(30, 25, 9, 2, algorithm), Workload(90, 3, 20, 0, algorithm)]
    told = []
    engine.warm_up(workloads, lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert engine.prefix_cache_stats.tokens_asked == 0, "the warm-up is in the counters"
    compiled = [function._cache_size() for function in engine._executor.runner.functions]
    assert sum(compiled) > 0
    for query, count, length, labels in ((30, 25, 9, [1, 2]), (90, 3, 20, None)):
        items = [[5] * length] * count
        for _ in range(3):  # what "auto" chooses changes
            engine.score([7] * query, items, labels, algorithm=algorithm)
    assert [function._cache_size() for function in engine._executor.runner.functions] == compiled


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
