"""The attention back ends against the definition.

If one of these fails, some row sees a key that it must not see, or does not see one that it must.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import isoprefill_csrc
import pairwise
from isoprefill import multi_item_attention
from isoprefill.attention.cpu.backend import cpu_attention
from mask_definition import RequestSpec
from random_packs import sharing
from reference_packs import (
    BACKENDS,
    assert_equals_oracle,
    assert_is_oracle,
    layout_of,
    random_qkv,
)

requests = st.builds(
    RequestSpec,
    prefix_len=st.integers(1, 50),
    item_lens=st.lists(st.one_of(st.integers(1, 9), st.integers(1, 40)), max_size=4),
    delimiter=st.sampled_from(["none", "hidden", "prefix_first"]),
    cached_prefix=st.booleans(),
    causal=st.booleans(),
    shared_lens=st.just(()),
)
packs = st.lists(requests | requests.flatmap(sharing), min_size=1, max_size=2)
WINDOWS = [None, 1, 5, 24, 65]
PADDED = 448  # above the largest pack, so that a sweep compiles once per configuration and not per example


@settings(derandomize=True, deadline=None, max_examples=60)
@given(specs=packs, window=st.sampled_from(WINDOWS))
def test_dense_is_the_definition(specs, window):
    layout = layout_of(specs, PADDED, PADDED, window)
    assert_equals_oracle(specs, layout, random_qkv(layout), "dense")


# Tiles are small, so that a few dozen rows already cross many edges.
CASES = pairwise.cases(
    {
        "blocks": [(16, 16, 4), (16, 64, 16), (64, 32, 8)],  # block_q, block_kv, local block
        "heads": [(1, 1), (2, 1), (16, 1), (9, 3)],
        "head_dim": [64, 128, 256],
        "dtype": ["float32", "bfloat16"],
        "soft_cap": [None, 2.0, 1e6],
        "window": WINDOWS,
    }
)


@pytest.mark.parametrize("case", CASES, ids=str)
@settings(derandomize=True, deadline=None, max_examples=8)
@given(specs=packs)
def test_xla_equals_the_oracle(case, specs):
    layout = layout_of(specs, PADDED, PADDED, case["window"])
    arrays = random_qkv(layout, *case["heads"], case["head_dim"], case["dtype"])
    block_q, block_kv, local_block = case["blocks"]
    layout = layout.with_schedule(
        "xla", block_q=block_q, block_kv=block_kv, local_block=local_block
    )
    assert_equals_oracle(specs, layout, arrays, "xla", soft_cap=case["soft_cap"])


CPU_CASES = pairwise.cases(
    {
        "instructions": isoprefill_csrc.available_instructions(),
        "heads": [(1, 1), (2, 1), (16, 1), (9, 3)],
        "head_dim": [64, 80, 128, 256],
        "dtype": ["float32", "bfloat16"],
        "soft_cap": [None, 2.0, 1e4, 1e6],
        "window": WINDOWS,
    }
)


@pytest.mark.parametrize("case", CPU_CASES, ids=str)
@settings(derandomize=True, deadline=None, max_examples=8)
@given(specs=packs)
def test_cpu_equals_the_oracle(case, specs):
    """With each kind of instructions that this processor has."""
    layout = layout_of(specs, PADDED, PADDED, case["window"])
    arrays = random_qkv(layout, *case["heads"], case["head_dim"], case["dtype"])
    result = cpu_attention(
        *arrays,
        layout.row_intervals,
        scale=case["head_dim"] ** -0.5,
        soft_cap=case["soft_cap"],
        window=layout.window,
        instructions=case["instructions"],
    )
    assert_is_oracle(specs, layout, arrays, result, soft_cap=case["soft_cap"])


EDGE = 32
NAMED_CASES = {
    "items end on, before and after every tile edge": [
        (EDGE, [EDGE, EDGE - 1, EDGE + 1, 2 * EDGE, 1])
    ],
    "one giant item among tiny ones": [(40, [2, 3, 700, 1, 2])],
    "prefix of one token, items of one token": [(1, [1] * 40)],
    "a prefix alone": [(77, [])],
    "a cached prefix alone": [(5, [], "none", True), (3, [2])],
    "prefix longer than the items": [(600, [3, 4])],
    "several requests": [(10, [3, 4]), (1, [1]), (50, [20, 20, 20]), (7, [])],
}
LARGEST = 770  # rows that hold each of them, so that one compilation serves them all


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [None, EDGE])
@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES.keys())
def test_hard_cases(case, window, backend):
    specs = [RequestSpec(*one) for one in case]
    layout = layout_of(specs, LARGEST, LARGEST, window)
    if backend == "xla":
        layout = layout.with_schedule("xla", block_q=EDGE, block_kv=EDGE, local_block=8)
    assert_equals_oracle(specs, layout, random_qkv(layout), backend)
    if window is None:
        layout = layout_of(specs)
        assert_equals_oracle(specs, layout, random_qkv(layout), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["prefix", "own item", "another item"])
def test_keys_of_huge_norm(where, backend):
    """A softmax that does not subtract the largest score would overflow, or lose every other key."""
    specs = [RequestSpec(40, [10, 12, 30])]
    layout = layout_of(specs)
    q, k, v = random_qkv(layout)
    place = {"prefix": 7, "own item": 55, "another item": 45}[where]
    k = k.at[place].multiply(1000.0)
    assert_equals_oracle(specs, layout, (q, k, v), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong", [11, 13])
def test_a_window_off_by_one_is_caught(wrong, backend):
    """The comparison itself: a window of one position more or less must not pass these tests."""
    specs = [RequestSpec(20, [5, 16])]
    layout, other = layout_of(specs, window=12), layout_of(specs, window=wrong)
    arrays = random_qkv(layout)
    result = multi_item_attention(*arrays, other, backend=backend, return_lse=True)
    with pytest.raises(AssertionError):
        assert_is_oracle(specs, layout, arrays, result)


def test_a_planted_leak_is_caught():
    """The published bug, in which item 1 counts as prefix for all later items, must not pass these tests."""
    specs = [RequestSpec(20, [5, 6, 7])]
    leaky = layout_of([RequestSpec(25, [6, 7])])
    layout = layout_of(specs)
    for backend in BACKENDS:
        with pytest.raises(AssertionError):
            assert_equals_oracle(specs, leaky, random_qkv(layout), backend)
