"""Scores of the link to sglang-jax, on stand-ins for its classes: cache, attention, positions, read-out.

tools/check_sglang_jax.py runs the real thing.
"""

import sglang_server  # isort: skip # noqa: F401 - it lets the others be found

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sgl_jax.srt.layers.attention.native_backend import NativeAttention
from sgl_jax.srt.mem_cache.memory_pool import merge_kv

from isoprefill_pallas import Heads, paged
from isoprefill_sglang_jax import install
from isoprefill_sglang_jax.backend import MultiItemAttention, kernel_heads
from sglang_server import (
    HEAD_DIM,
    HEADS,
    ITEMS,
    KV_HEADS,
    LABELS,
    QUERY,
    Server,
    expected,
    logprobs_alone,
    run_all,
    weights,
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("page_size", "head_dim"), [(1, 128), (16, 64), (256, 128)])
def test_new_keys_and_values_go_where_sglang_jax_puts_them(dtype, page_size, head_dim):
    """The layout is sglang-jax's: heads K0, V0, K1, V1, two bfloat16 in a word, head_dim padded to 128.

    Decoding and later chunks read the cache with sglang-jax's own code or ours.
    """
    generator = np.random.default_rng(0)
    k, v = (jnp.asarray(generator.standard_normal((5, 2, head_dim)), dtype) for _ in range(2))
    packing = 4 // k.dtype.itemsize
    cache = jnp.full((4, page_size, 4 // packing, packing, 128), jnp.nan, k.dtype)
    slots = np.array([page_size, 2 * page_size, -1, page_size * 4 - 1, 0], np.int32)
    written = np.asarray(paged.write_columns(cache, k, v, slots).astype(jnp.float32)).reshape(
        -1, 4, 128
    )
    merged = np.asarray(merge_kv(k, v).astype(jnp.float32)).reshape(5, 4, 128)
    for row in (0, 1, 3, 4):
        np.testing.assert_array_equal(written[slots[row]], merged[row])
    untouched = np.delete(written, np.delete(slots, 2), axis=0)
    assert np.isnan(untouched).all(), "a padding row or a neighbour's slot was written"

    full = jnp.full(2, page_size)
    again = paged.gather_columns(
        paged.write_columns(cache, k, v, slots), jnp.array([3, 1]), full, head_dim=head_dim
    )
    for array, original in zip(again, (k, v), strict=True):
        assert array.shape == (2 * page_size, 2, head_dim)
        np.testing.assert_array_equal(
            array[page_size - 1].astype(jnp.float32), original[3].astype(jnp.float32)
        )
        np.testing.assert_array_equal(
            array[page_size].astype(jnp.float32), original[0].astype(jnp.float32)
        )


@pytest.mark.parametrize(
    ("page_size", "tensor", "data"),
    [(1, 1, 1), (16, 1, 1), (256, 1, 1), (1, 2, 1), (16, 2, 1), (16, 2, 2)],
)
def test_scores_are_those_of_each_item_alone(page_size, tensor, data):
    """One prefill of all items equals one prompt an item in float64: attention, positions, cache and read-out.

    The cache is full of NaN and its pages lie in random order. Heads are sharded over `tensor` devices, requests over
    `data`. Two requests run at once.
    """
    if page_size == 256:
        server = Server(page_size, tensor, data)
        (scores,) = server.score((QUERY, ITEMS, LABELS))
        both = [scores]
    else:
        server = Server(page_size, tensor, data)
        both = server.score(
            (QUERY, ITEMS, LABELS),
            (QUERY[:3], ITEMS[:2], LABELS[:1]),
            run=functools.partial(run_all, ranks=data),
        )
        np.testing.assert_allclose(both[1], expected(QUERY[:3], ITEMS[:2], LABELS[:1]), atol=1e-4)
    np.testing.assert_allclose(both[0], expected(QUERY, ITEMS), atol=1e-4)
    assert server.front.sent == len(both), "more than one prefill a request"
    assert server.front.calls == []


def test_the_kernel_gives_the_same_scores():
    """What runs on a TPU, here in the TPU interpreter: schedule, page table and shards as the link makes them."""
    server = Server(16, tensor=2, attention="pallas")
    heads = Heads(HEADS // 2, KV_HEADS // 2, HEAD_DIM, "float32")
    assert server.runner.attn_backend.kernel_heads == heads
    both = server.score((QUERY, ITEMS, LABELS), (QUERY[:3], ITEMS[:2], LABELS))
    np.testing.assert_allclose(both[0], expected(QUERY, ITEMS), atol=1e-4)
    np.testing.assert_allclose(both[1], expected(QUERY[:3], ITEMS[:2]), atol=1e-4)


def test_what_the_kernel_does_not_take_goes_to_xla_or_is_refused(monkeypatch, caplog):
    """A model that the kernel lacks must still be served on a TPU, and "pallas" must not be ignored."""
    for arguments, message in (
        ({"data": 2}, "data-parallel"),
        ({"page_size": 512}, "page_size must be at most 256, got 512"),
        ({"dtype": "float16"}, "got float16"),
        ({"kv_cache_dtype": "bf16"}, "KV cache must have the model's dtype float32, got bf16"),
    ):
        runner = Server(**arguments).runner
        with pytest.raises(ValueError, match=message):
            kernel_heads(runner, "pallas")
        assert kernel_heads(runner, "auto") is None
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "tpu")
            assert kernel_heads(runner, "auto") is None
            assert message in caplog.text
    with pytest.raises(ValueError, match="attention must be one of"):
        install(attention="cuda")


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("cuts", [[16], [20], [21, 22], [10, 23, 27]])
def test_scores_do_not_depend_on_chunks(page_size, cuts):
    """sglang-jax cuts long prompts anywhere: inside the query, inside an item, between items."""

    def run(scheduler):
        (request,) = scheduler.waiting_queue
        ends = [*cuts, len(request.origin_input_ids)]
        for start, end in zip([0, *ends], ends, strict=False):
            scheduler.run([[(request, end - start)]], rows=64)

    (scores,) = Server(page_size).score((QUERY, ITEMS, LABELS), run=run)
    np.testing.assert_allclose(scores, expected(QUERY, ITEMS), atol=1e-4)


def test_a_restarted_request_counts_once():
    """After sglang-jax retracts a half-computed request it computes it anew from its first token."""

    def run(scheduler):
        (request,) = scheduler.waiting_queue
        scheduler.run([[(request, 25)]], rows=64)
        request.computed = 0
        scheduler.run([[(request, len(request.origin_input_ids))]], rows=64)

    (scores,) = Server().score((QUERY, ITEMS, LABELS), run=run)
    np.testing.assert_allclose(scores, expected(QUERY, ITEMS), atol=1e-4)


def test_an_ordinary_request_in_the_same_pass_is_served():
    """A pass may mix both kinds: the ordinary one's next-token logits are causal, whoever is before it."""
    server = Server(16)
    ordinary = server.add("ordinary", [9, 8, 7, 6])

    def run(scheduler):
        queue = scheduler.waiting_queue
        scheduler.run([[(queue[1], 33), (ordinary, 4), (queue[2], 23)]])

    scores = server.score((QUERY, ITEMS, LABELS), (QUERY, ITEMS[:2], LABELS), run=run)
    np.testing.assert_allclose(scores[0], expected(QUERY, ITEMS), atol=1e-4)
    np.testing.assert_allclose(scores[1], expected(QUERY, ITEMS[:2]), atol=1e-4)
    logits = np.asarray(server.scheduler.last_output.next_token_logits[1])
    np.testing.assert_allclose(jax.nn.log_softmax(logits), logprobs_alone([9, 8, 7, 6]), atol=1e-4)


def test_an_ordinary_pass_goes_to_sglang_jax_untouched():
    """Everything but multi-item passes is sglang-jax's business."""
    server = Server()
    backend = server.runner.attn_backend
    assert isinstance(backend, MultiItemAttention)
    assert type(backend.own) is NativeAttention
    assert backend.get_max_running_reqests(100, 1) == 4096
    request = server.add("ordinary", [9, 8, 7, 6])
    server.scheduler.run([[(request, 4)]])
    # The stand-in's attention gives 7 everywhere, which nothing of ours does.
    w = weights()
    x = w["embedding"][[6]] + w["position"][[3]]
    logits = (x + np.full((1, HEADS * HEAD_DIM), 7.0) @ w["o"]) @ w["embedding"].T
    np.testing.assert_allclose(
        server.scheduler.last_output.next_token_logits[0], logits[0], atol=1e-2
    )
    assert request.routed_experts is None
    assert server.scheduler.tree_cache.released == [("ordinary", True)]


def test_the_prefix_cache_never_gets_items():
    """Another request with the same tokens would find keys and values that are not its own."""
    server = Server()
    server.score((QUERY, ITEMS, LABELS))
    assert server.scheduler.tree_cache.released == [("0", False)]


def test_a_neighbour_changes_nothing():
    """Isolation by perturbation: other items of the same lengths, and not one bit of a score differs."""
    other = [[63 - token for token in item] for item in ITEMS]
    other[2] = ITEMS[2]
    (scores,) = Server().score((QUERY, ITEMS, LABELS))
    (perturbed,) = Server().score((QUERY, other, LABELS))
    np.testing.assert_array_equal(scores[2], perturbed[2])
    assert (scores[[0, 1, 3, 4]] != perturbed[[0, 1, 3, 4]]).all()
