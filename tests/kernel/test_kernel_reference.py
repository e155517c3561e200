"""The attention back ends against the definition.

If one of these fails, some row sees a key that it must not see, or does not see one that it must.
"""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import isoprefill_csrc
import pairwise
from attention_backends import BACKENDS as ALL_BACKENDS
from attention_backends import INTERPRETED
from attention_oracle import attend_float64
from isoprefill import PackedLayout, multi_item_attention
from isoprefill.attention.cpu.backend import cpu_attention
from isoprefill.attention.xla.attention import xla_attention
from mask_definition import RequestSpec, define

# The kernel has tests/kernel/test_kernel_interpret.py.
BACKENDS = [name for name in ALL_BACKENDS if name not in INTERPRETED]
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}  # of max |v|


def layout_of(specs, pad_to=None, pad_columns_to=None) -> PackedLayout:
    parts = [
        PackedLayout.from_lengths(
            spec.prefix_len,
            spec.item_lens,
            spec.delimiter,
            spec.cached_prefix,
            isolation="causal" if spec.causal else "isolated",
        )
        for spec in specs
    ]
    return PackedLayout.concat(parts, pad_to, pad_columns_to=pad_columns_to)


def random_qkv(layout, query_heads=2, kv_heads=1, head_dim=64, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    shapes = (
        (layout.num_rows, query_heads, head_dim),
        (layout.num_columns, kv_heads, head_dim),
        (layout.num_columns, kv_heads, head_dim),
    )
    return [jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes]


def assert_equals_oracle(specs, layout, arrays, backend, **options):
    result = multi_item_attention(*arrays, layout, backend=backend, return_lse=True, **options)
    assert_is_oracle(specs, layout, arrays, result, **options)


def assert_is_oracle(specs, layout, arrays, result, **options):
    out, lse = result
    pads = {"pad_to": layout.num_rows, "pad_columns_to": layout.num_columns}
    mask = define(specs, **pads).mask
    expected, expected_lse = attend_float64(*arrays, mask, **options)
    assert out.dtype == arrays[0].dtype
    tolerance = TOLERANCE[str(out.dtype)]
    largest_value = np.abs(np.asarray(arrays[2], np.float64)).max()
    assert np.abs(np.asarray(out, np.float64) - expected).max() <= tolerance * largest_value
    np.testing.assert_array_equal(
        np.isneginf(lse), ~mask.any(axis=1)[:, None].repeat(lse.shape[1], 1)
    )
    np.testing.assert_allclose(lse, expected_lse, rtol=10 * tolerance, atol=10 * tolerance)
    assert not np.asarray(out)[~mask.any(axis=1)].any(), "a row that sees nothing must give zeros"


requests = st.builds(
    RequestSpec,
    prefix_len=st.integers(1, 50),
    item_lens=st.lists(st.one_of(st.integers(1, 9), st.integers(1, 40)), max_size=4),
    delimiter=st.sampled_from(["none", "hidden", "prefix_first"]),
    cached_prefix=st.booleans(),
    causal=st.booleans(),
)
packs = st.lists(requests, min_size=1, max_size=2)
PADDED = 448  # above the largest pack, so that a sweep compiles once per configuration and not per example


@settings(derandomize=True, deadline=None, max_examples=60)
@given(specs=packs)
def test_dense_is_the_definition(specs):
    layout = layout_of(specs, PADDED, PADDED)
    assert_equals_oracle(specs, layout, random_qkv(layout), "dense")


# Tiles are small, so that a few dozen rows already cross many edges.
CASES = pairwise.cases(
    {
        "blocks": [(16, 16, 4), (16, 64, 16), (64, 32, 8)],  # block_q, block_kv, local block
        "heads": [(1, 1), (2, 1), (16, 1), (9, 3)],
        "head_dim": [64, 128, 256],
        "dtype": ["float32", "bfloat16"],
        "soft_cap": [None, 2.0, 1e6],
    }
)


@pytest.mark.parametrize("case", CASES, ids=str)
@settings(derandomize=True, deadline=None, max_examples=8)
@given(specs=packs)
def test_xla_equals_the_oracle(case, specs):
    layout = layout_of(specs, PADDED, PADDED)
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
    }
)


@pytest.mark.parametrize("case", CPU_CASES, ids=str)
@settings(derandomize=True, deadline=None, max_examples=8)
@given(specs=packs)
def test_cpu_equals_the_oracle(case, specs):
    """With each kind of instructions that this processor has."""
    layout = layout_of(specs, PADDED, PADDED)
    arrays = random_qkv(layout, *case["heads"], case["head_dim"], case["dtype"])
    result = cpu_attention(
        *arrays,
        layout.row_intervals,
        scale=case["head_dim"] ** -0.5,
        soft_cap=case["soft_cap"],
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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES.keys())
def test_hard_cases(case, backend):
    specs = [RequestSpec(*one) for one in case]
    layout = layout_of(specs)
    arrays = random_qkv(layout)
    if backend == "xla":
        layout = layout.with_schedule("xla", block_q=EDGE, block_kv=EDGE, local_block=8)
    assert_equals_oracle(specs, layout, arrays, backend)
    assert_equals_oracle(specs, layout_of(specs), arrays, backend)


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


def test_an_item_packed_is_the_same_bits_as_alone_with_cpu():
    packed, alone = (
        PackedLayout.from_lengths(70, [3, 100, 20]),
        PackedLayout.from_lengths(70, [100]),
    )
    arrays = random_qkv(packed, 6, 2)
    rows = np.r_[0:70, 73:173]
    out = np.asarray(multi_item_attention(*arrays, packed, backend="cpu"))
    one = multi_item_attention(*(array[rows] for array in arrays), alone, backend="cpu")
    np.testing.assert_array_equal(out[rows], np.asarray(one))


def test_cpu_refuses_what_it_cannot_compute():
    """The extension must not read outside its arrays, whatever it is handed inside jit."""
    layout = PackedLayout.from_lengths(5, [3])
    arrays = random_qkv(layout)
    outside = np.array(layout.row_intervals)
    outside[1, 6] = 9
    for intervals, instructions, message in (
        (outside, "best", r"prefix interval of row 6 is \[0, 9\); it must lie in the 8 columns"),
        (layout.row_intervals[:, :7], "best", r"row_intervals has shape \[4, 7\]"),
        (layout.row_intervals, "mmx", 'instructions is "mmx"'),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            jax.block_until_ready(
                cpu_attention(*arrays, intervals, scale=1.0, instructions=instructions)
            )


def test_cpu_says_when_memory_runs_out():
    """A caller must be able to tell it from a wrong argument. The tile of one row of many heads takes gigabytes."""
    program = textwrap.dedent("""
        import resource

        import jax
        import numpy as np

        from isoprefill.attention.cpu.backend import cpu_attention

        def attend(heads):
            q, k = np.zeros((1, heads, 1), np.float32), np.zeros((1, 1, 1), np.float32)
            intervals = np.array([[0], [1], [0], [0]], np.int32)
            jax.block_until_ready(cpu_attention(q, k, k, intervals, scale=1.0))

        attend(1)
        with open("/proc/self/statm") as sizes:
            used = int(sizes.read().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), most))
        attend(1 << 24)
    """)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert "RESOURCE_EXHAUSTED: out of memory" in done.stderr


def test_auto_takes_cpu_where_it_takes_the_heads():
    layout = PackedLayout.from_lengths(5, [3])

    def primitives(head_dim):
        arrays = random_qkv(layout, head_dim=head_dim)
        return str(jax.make_jaxpr(lambda q, k, v: multi_item_attention(q, k, v, layout))(*arrays))

    assert "isoprefill_attention" in primitives(64)
    assert "isoprefill_attention" not in primitives(isoprefill_csrc.MAX_HEAD_DIM + 8)


def test_a_planted_leak_is_caught():
    """The published bug, in which item 1 counts as prefix for all later items, must not pass these tests."""
    specs = [RequestSpec(20, [5, 6, 7])]
    leaky = layout_of([RequestSpec(25, [6, 7])])
    layout = layout_of(specs)
    for backend in BACKENDS:
        with pytest.raises(AssertionError):
            assert_equals_oracle(specs, leaky, random_qkv(layout), backend)


@pytest.mark.parametrize(("backend", "local_block"), [("xla", 8), ("xla", 32), ("cpu", None)])
def test_order_of_items_does_not_change_a_bit(backend, local_block):
    """With other tile edges in the pack an item's sums must still run in the same order."""
    prefix, lens = 70, [3, 40, 9, 130, 1, 20, 64]
    order = [4, 2, 6, 0, 3, 5, 1]
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((3, n, 2, 64), np.float32) for n in (prefix, *lens)]

    def run(order):
        layout = PackedLayout.from_lengths(prefix, [lens[index] for index in order], pad_to=384)
        if backend == "xla":
            layout = layout.with_schedule("xla", block_q=32, block_kv=32, local_block=local_block)
        packed = np.concatenate([parts[0], *(parts[1 + index] for index in order)], axis=1)
        packed = np.pad(packed, ((0, 0), (0, 384 - packed.shape[1]), (0, 0), (0, 0)))
        out = np.asarray(multi_item_attention(*packed, layout, backend=backend))
        ends = prefix + np.cumsum([lens[index] for index in order])
        return {index: out[end - lens[index] : end] for index, end in zip(order, ends, strict=True)}

    straight, shuffled = run(range(len(lens))), run(order)
    for index in range(len(lens)):
        np.testing.assert_array_equal(straight[index], shuffled[index])


def test_layouts_of_one_bucket_share_one_compilation():
    compiled = jax.jit(lambda q, k, v, layout: multi_item_attention(q, k, v, layout))
    blocks = set()
    for lens in ([20] * 18, [21, 18] * 9, [3, 50, 17, 40, 60], [100, 200], [1] * 200):
        layout = PackedLayout.from_lengths(100, lens, pad_to=512).with_schedule("xla")
        compiled(*random_qkv(layout), layout)
        blocks.add((layout.schedule.local_block, layout.schedule.local_blocks.shape))
    # One for each local block and capacity that the items' lengths ask for, and few of these.
    assert compiled._cache_size() == len(blocks) <= 3


def test_memory_does_not_grow_with_the_square_of_the_pack():
    """Temporary memory of the compiled program: linear in T, for ragged lists with a giant item too."""

    def bytes_of(item_lens):
        layout = PackedLayout.from_lengths(2000, item_lens)
        layout = PackedLayout.concat(
            [layout], pad_to=-(-layout.num_rows // 512) * 512
        ).with_schedule("xla")
        arrays = random_qkv(layout, 9, 3)
        compiled = (
            jax.jit(xla_attention, static_argnames="scale")
            .lower(*arrays, layout.row_intervals, layout.schedule, scale=0.125)
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes / layout.num_rows

    per_row = bytes_of([20] * 100)
    assert bytes_of([20] * 500) <= 1.5 * per_row
    assert bytes_of([20] * 499 + [4000]) <= 1.5 * per_row


def test_a_traced_layout_without_its_schedule_says_so():
    layout = PackedLayout.from_lengths(5, [3])
    with pytest.raises(ValueError, match="with_schedule is not available on a traced PackedLayout"):
        jax.jit(multi_item_attention, static_argnames="backend")(
            *random_qkv(layout), layout, backend="xla"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (8, 2, 64, 1)}, "q must have 3 dimensions"),
        ({"q": (9, 2, 64)}, r"q must have the layout's 8 rows, got shape \(9, 2, 64\)"),
        ({"k": (7, 2, 64)}, r"k must have the layout's 8 columns, got shape \(7, 2, 64\)"),
        ({"v": (8, 2, 32)}, r"v must have q's head_dim 64, got shape \(8, 2, 32\)"),
        ({"v": (8, 1, 64)}, r"v must have k's shape"),
        (
            {"k": (8, 3, 64), "v": (8, 3, 64)},
            "query heads must be a multiple of the 3 KV heads, got 2",
        ),
        ({"k": (8, 0, 64), "v": (8, 0, 64)}, "KV heads must be at least 1, got 0"),
        ({"q": (8, 0, 64)}, "query heads must be at least 1, got 0"),
        (dict.fromkeys("qkv", (8, 2, 0)), "head_dim must be at least 1, got 0"),
        (
            dict.fromkeys("qkv", (8, 2, 520)) | {"backend": "cpu"},
            "the cpu back end takes head_dim up to 512, got 520",
        ),
        ({"dtype": "float16"}, r"q must be one of \('float32', 'bfloat16'\), got float16"),
        ({"backend": "cuda"}, "backend must be one of .*'cuda'"),
        ({"soft_cap": 0.0}, "soft_cap must be from 1e-30 to 1e[+]30, got 0.0"),
        ({"soft_cap": 1e-50}, "soft_cap must be .* got 1e-50"),
        ({"soft_cap": np.inf}, "soft_cap must be .* got inf"),
        ({"soft_cap": np.nan}, "soft_cap must be .* got nan"),
    ],
)
def test_bad_input_is_rejected_by_name(change, message):
    layout = PackedLayout.from_lengths(5, [3])
    options = {key: change[key] for key in ("backend", "soft_cap") if key in change}
    arrays = [
        jnp.zeros(change.get(name, (8, 2, 64)), change.get("dtype", "float32")) for name in "qkv"
    ]
    with pytest.raises(ValueError, match=message):
        multi_item_attention(*arrays, layout, **options)


def test_auto_needs_no_square_of_memory():
    """The default back end must not be the dense one."""
    layout = PackedLayout.from_lengths(1000, [20] * 52).with_schedule("xla")
    arrays = random_qkv(layout)

    def temporary_bytes(backend):
        call = jax.jit(
            lambda q, k, v, layout: multi_item_attention(q, k, v, layout, backend=backend)
        )
        compiled = call.lower(*arrays, layout).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes("auto") == temporary_bytes("xla") < temporary_bytes("dense") / 2


def test_small_requests_do_not_compute_large_tiles():
    """Many short requests in one pack (item_first, a busy server) must not cost a large tile each."""
    small = [PackedLayout.from_lengths(20, [6])] * 100
    large = PackedLayout.from_lengths(2000, [20] * 30)
    alone, beside, one_large = (
        PackedLayout.concat(parts).with_schedule("xla")
        for parts in (small, [*small, large], [large])
    )
    pairs = [sum(tiles.pairs for tiles in one.schedule.tiles) for one in (alone, beside, one_large)]
    assert pairs[0] <= 16 * alone.dense_mask().sum()
    assert pairs[1] == pairs[0] + pairs[2]


@pytest.mark.parametrize("heads", [(9, 3, 64), (16, 8, 128)], ids=str)
def test_requests_beside_do_not_change_a_bit(heads):
    """The tiles of a request, and with them the order of its sums, follow from its own lengths (xla)."""
    lens = {20: [6], 60: [5, 40, 3], 230: [20] * 3, 600: [9]}
    rng = np.random.default_rng(0)
    parts = {
        prefix: [
            rng.standard_normal((prefix + sum(items), count, heads[2]), np.float32)
            for count in (heads[0], heads[1], heads[1])
        ]
        for prefix, items in lens.items()
    }

    def run(prefixes):
        layout = PackedLayout.concat(
            [PackedLayout.from_lengths(prefix, lens[prefix]) for prefix in prefixes], pad_to=1088
        )
        arrays = [
            np.pad(x, ((0, 1088 - len(x)), (0, 0), (0, 0)))
            for x in map(np.concatenate, zip(*(parts[prefix] for prefix in prefixes), strict=True))
        ]
        out = np.asarray(multi_item_attention(*arrays, layout, backend="xla"))
        ends = np.cumsum([len(parts[prefix][0]) for prefix in prefixes])
        return {
            prefix: out[end - len(parts[prefix][0]) : end]
            for prefix, end in zip(prefixes, ends, strict=True)
        }

    together = run([600, 20, 230, 60])
    for prefix in lens:
        np.testing.assert_array_equal(run([prefix])[prefix], together[prefix])
