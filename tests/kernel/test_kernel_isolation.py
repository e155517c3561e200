"""The TPU kernel as a back end: of `multi_item_attention`, of the layout, and of a whole model's scores.

Here it runs in the TPU interpreter. If one of these fails, a user who asks for the kernel gets other scores than
without it, or scores that depend on neighbours, or a compilation for every list.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

import kernel_packs
import small_models
from huggingface_directory import save_directory
from isoprefill import PackedLayout, ScoringEngine, multi_item_attention
from isoprefill.attention import AttentionHeads
from isoprefill.attention.backends import choose_backend
from isoprefill.attention.layout import with_schedules
from isoprefill_pallas import BlockSizes, Heads, KernelSchedule
from mask_definition import RequestSpec

SMALL = BlockSizes(256, 256, 128, 128, 128, 2, 160, 100)
QUERY = list(range(20, 60))
ITEMS = [[7, 8, 9], [100] * 30, [5], list(range(100, 140)), [60, 61]]
LABELS = [3, 99]


def test_packs_whose_schedules_are_cut_differently_are_not_computed_side_by_side(monkeypatch):
    """One program takes them all: with another number of calls of the kernel it would be another program."""
    small = functools.partial(KernelSchedule.of, smem_words=700)
    monkeypatch.setattr(KernelSchedule, "of", small)
    sizes = BlockSizes(512, 512, 128, 128, 128, 2, 160, 256)
    monkeypatch.setattr("isoprefill_pallas.schedule.choose_block_sizes", lambda *_, **__: sizes)
    long = PackedLayout.from_lengths(4000, [20] * 200, pad_to=8192)
    short = PackedLayout.concat([PackedLayout.from_lengths(100, [30] * 3)] * 42, pad_to=8192)
    longer = PackedLayout.from_lengths(5000, [20] * 150, pad_to=8192)
    heads = AttentionHeads(2, 1, 128, "float32")
    assert len(with_schedules([long, long], "pallas", heads)) == 2
    for other, parts in ((short, r"\[8192\]"), (longer, r"\[\d+, \d+\]")):
        message = rf"got parts of \[\[\d+, \d+\], {parts}\] rows: lower pack_tokens"
        with pytest.raises(ValueError, match=message):
            with_schedules([long, other], "pallas", heads)


@pytest.mark.parametrize("full_keys", [0, 4096], ids=["masked units", "whole units too"])
@pytest.mark.parametrize("prefix", [128, 256, 300, 512])
def test_what_is_not_finite_in_an_item_reaches_no_row_of_an_earlier_window(prefix, full_keys):
    """A window that reached behind its 128 rows would bring it to the prefix, and so, in the next layer, to all."""
    sizes = dataclasses.replace(kernel_packs.SIZES, block_q=512, block_kv=512, full_keys=full_keys)
    layout = kernel_packs.layout_of([RequestSpec(prefix, [30, 40])])
    q, k, v = kernel_packs.inputs(layout, (2, 64, "float32"))
    v = v.at[prefix : prefix + 30].set(np.nan)
    schedule = KernelSchedule.of(layout, sizes=sizes)
    out, _ = kernel_packs.compiled(sizes)(q, k, v, schedule)
    last = prefix // 128 * 128  # the rows from here on have a window in common with the item's
    assert np.isfinite(out[:last]).all()
    assert np.isnan(out[prefix : prefix + 30]).all(), "nothing was planted"


@pytest.mark.parametrize(
    ("backend", "change", "message"),
    [
        ("cpu", {"head_dim": 520}, "the cpu back end takes head_dim up to 512, got 520"),
        ("pallas", {"head_dim": 260}, "head_dim up to 256, got 260"),
        ("dense", {"kv_heads": 0}, "KV heads must be at least 1, got 0"),
        ("xla", {"query_heads": 0}, "query heads must be at least 1, got 0"),
        ("auto", {"head_dim": 0}, "head_dim must be at least 1, got 0"),
    ],
)
def test_layouts_are_not_scheduled_for_heads_that_the_back_end_does_not_take(
    backend, change, message
):
    """The first attention would fail instead, perhaps inside a server."""
    heads = {"query_heads": 2, "kv_heads": 1, "head_dim": 64, "dtype": "float32"} | change
    with pytest.raises(ValueError, match=message):
        with_schedules([PackedLayout.from_lengths(10, [3])], backend, AttentionHeads(**heads))


@pytest.mark.parametrize("backend", ["dense", "cpu", "xla", "pallas", "auto"])
def test_a_cached_prefix_without_items_has_no_output(backend):
    """A layout of no rows is a valid one: it must not reach code that takes the first of them."""
    layout = PackedLayout.from_lengths(5, [], cached_prefix=True)
    q, keys = np.zeros((0, 4, 64), np.float32), np.ones((5, 2, 64), np.float32)
    out, lse = multi_item_attention(q, keys, keys, layout, backend=backend, return_lse=True)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    assert (lse.shape, lse.dtype) == ((0, 4), jnp.float32)
    for name, options in (("xla", {}), ("pallas", {"block_sizes": SMALL})):
        scheduled = layout.with_schedule(name, **options)
        traced = jax.jit(multi_item_attention)(q, keys, keys, scheduled)
        assert traced.shape == q.shape


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    model = small_models.random_model(
        "llama", num_hidden_layers=2, head_dim=64, num_attention_heads=4, num_key_value_heads=2
    )
    return save_directory(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engines(model_directory):
    return {
        attention: ScoringEngine.from_pretrained(model_directory, attention=attention)
        for attention in ("xla", "pallas")
    }


@pytest.mark.parametrize("labels", [None, LABELS], ids=["likelihood", "labels"])
def test_a_model_scores_alike_with_the_kernel_and_without(engines, labels):
    """Two layers: what a first layer leaked, a second would spread."""
    with_kernel, without = (
        engines[name].score(QUERY, ITEMS, labels).logprobs for name in ("pallas", "xla")
    )
    assert np.abs(with_kernel - without).max() <= 1e-4


def test_neighbours_do_not_change_a_bit_of_a_score(engines):
    scores = engines["pallas"].score(QUERY, ITEMS).scores
    for kept in range(len(ITEMS)):
        changed = [
            item if index == kept else [(token * 31 + 7) % 256 for token in item]
            for index, item in enumerate(ITEMS)
        ]
        assert engines["pallas"].score(QUERY, changed).scores[kept] == scores[kept]
    causal = engines["pallas"].score(QUERY, ITEMS, isolation="causal").scores
    assert np.abs(causal - scores)[1:].min() > 1e-3, "the comparison is of equal things"


def random_qkv(layout, query_heads=2, kv_heads=1, head_dim=64, dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = [
        (layout.num_rows, query_heads, head_dim),
        (layout.num_columns, kv_heads, head_dim),
        (layout.num_columns, kv_heads, head_dim),
    ]
    return [jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes]


@pytest.mark.parametrize("head_dim", [64, 96])
@pytest.mark.parametrize("cached_prefix", [False, True])
def test_the_operation_gives_what_xla_gives(cached_prefix, head_dim):
    """No schedule, sizes that are no multiple of any tile, several requests, padded heads, the log-sum-exp."""
    layout = PackedLayout.concat(
        [
            PackedLayout.from_lengths(37, [5, 60, 1], "hidden", cached_prefix),
            PackedLayout.from_lengths(3, [11], cached_prefix=cached_prefix),
        ]
    )
    q, k, v = random_qkv(layout, head_dim=head_dim)
    options = {"scale": 0.2, "soft_cap": 3.0, "return_lse": True}
    expected = multi_item_attention(q, k, v, layout, backend="xla", **options)
    got = multi_item_attention(q, k, v, layout, backend="pallas", **options)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


def test_layouts_of_one_bucket_share_one_compilation():
    """The schedule is part of the layout's pytree: lists of other lengths must not compile again."""
    compiled = jax.jit(lambda q, k, v, layout: multi_item_attention(q, k, v, layout))
    heads = Heads(2, 1, 64, "float32")
    for lens in ([20] * 18, [21, 18] * 9, [3, 50, 17, 40, 60], [100, 200], [1] * 200, [400]):
        layout = PackedLayout.from_lengths(100, lens, pad_to=512)
        layout = layout.with_schedule("pallas", heads=heads)
        jax.block_until_ready(compiled(*random_qkv(layout), layout))
    assert compiled._cache_size() == 1


def test_auto_takes_the_schedule_that_the_layout_carries():
    layout = PackedLayout.from_lengths(10, [3, 4])
    q, k, v = random_qkv(layout)
    scheduled = layout.with_schedule("pallas", block_sizes=SMALL)

    def primitives(layout):
        return str(jax.make_jaxpr(lambda q, k, v: multi_item_attention(q, k, v, layout))(q, k, v))

    assert "pallas_call" in primitives(scheduled)
    assert "pallas_call" not in primitives(layout.with_schedule("xla"))
    assert "pallas_call" not in primitives(layout), "without a TPU the default is another"


def test_auto_on_a_tpu_is_the_kernel_where_it_takes_the_heads(monkeypatch):
    assert choose_backend("auto", AttentionHeads(2, 1, 64, "float32")).name == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert choose_backend("auto", AttentionHeads(2, 1, 64, "float32")).name == "pallas"
    assert choose_backend("auto", AttentionHeads(2, 1, 96, "float32")).name == "pallas"
    assert choose_backend("auto", AttentionHeads(2, 1, 260, "float32")).name == "xla"
    assert choose_backend("auto", AttentionHeads(17, 1, 64, "float32")).name == "xla"


def test_interpret_takes_the_parameters_of_the_interpreter():
    """Without them there is no race detection for users who change the kernel."""
    layout = PackedLayout.from_lengths(10, [3, 4]).with_schedule("pallas", block_sizes=SMALL)
    points = []
    parameters = pltpu.InterpretParams(
        grid_point_recorder=lambda token, point, core: (points.append(point), token)[1]
    )
    out = multi_item_attention(*random_qkv(layout), layout, interpret=parameters)
    jax.block_until_ready(out)
    assert points
    with pytest.raises(ValueError, match="the 'xla' back end does not take interpret"):
        multi_item_attention(*random_qkv(layout), layout, backend="xla", interpret=parameters)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ((2, 1, 260, "float32"), "head_dim up to 256, got 260"),
        ((34, 2, 64, "float32"), "1 to 16 query heads per KV head, got 34"),
    ],
)
def test_what_the_kernel_does_not_take_is_refused_before_tracing(heads, message, monkeypatch):
    monkeypatch.setattr("isoprefill.attention.op._attend", None)  # tracing would fail otherwise
    layout = PackedLayout.from_lengths(10, [3])
    with pytest.raises(ValueError, match=message):
        multi_item_attention(*random_qkv(layout, *heads), layout, backend="pallas")


@pytest.mark.parametrize(
    ("backend", "arguments", "message"),
    [
        ("pallas", {}, "needs heads or block_sizes"),
        ("pallas", {"block_q": 256}, "the 'pallas' back end does not take block_q, got 256"),
        ("xla", {"chip": "v6e"}, "the 'xla' back end does not take chip, got 'v6e'"),
        ("pallas", {"chip": "v9", "heads": Heads(2, 1, 64, "float32")}, "chip must be one of"),
    ],
)
def test_bad_schedule_arguments_are_rejected_by_name(backend, arguments, message):
    with pytest.raises(ValueError, match=message):
        PackedLayout.from_lengths(10, [3]).with_schedule(backend, **arguments)
