"""The rows that are computed at once follow from the memory that there is, and not from the length of the list.

If one of these fails, a long list, a large model or a small container runs out of memory.
"""

import dataclasses
import os
import types

import numpy as np
import pytest

from engine_cases import ITEMS, QUERY, TOLERANCE, make_model_and_oracle
from isoprefill import ScoringEngine
from isoprefill.execution import memory
from isoprefill.execution.model_runner import ModelRunner
from isoprefill.host import control_groups


@pytest.fixture(scope="module")
def model_and_oracle(tmp_path_factory):
    return make_model_and_oracle(tmp_path_factory.mktemp("model"))


def test_many_items_stay_within_the_memory_of_one_chunk(model_and_oracle, monkeypatch):
    """The rows of a pack are bounded by the budget and not by the list; one long item still fits."""
    model, oracle = model_and_oracle
    engine = ScoringEngine(model, chunk_tokens=64)
    rows = []
    hidden_states = ModelRunner.hidden_states

    def recorded(runner, tokens, layouts, prefix):
        rows.extend(layout.num_rows for layout in layouts)
        return hidden_states(runner, tokens, layouts, prefix)

    monkeypatch.setattr(ModelRunner, "hidden_states", recorded)
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
    monkeypatch.setattr(control_groups, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(control_groups, "_GROUPS", groups)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cpu = types.SimpleNamespace(memory_stats=lambda: None)
    monkeypatch.setattr("jax.local_devices", lambda: [cpu])
    monkeypatch.setattr("jax.local_device_count", lambda: 1)
    weights = np.zeros(1000, np.uint8)
    assert memory.free_bytes([weights]) == (limit or machine) - 1000
