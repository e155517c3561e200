# ruff: noqa: E402 - the stand-ins must be found before they are imported
"""The link to sglang-jax, on stand-ins for its classes (tests/support/sglang_stand_in), down to scores.

The stand-ins have the names and arguments of the real classes: the first tests compare them with the interface that
tools/check_sglang_jax.py compares the real source with. That tool also runs the real thing.
"""

import asyncio
import base64
import functools
import inspect
import itertools
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isoprefill import PackedLayout
from isoprefill_sglang_jax import source_interface

STAND_IN = pathlib.Path(__file__).parents[1] / "support" / "sglang_stand_in"
PYTHON = pathlib.Path(source_interface.__file__).parents[1]
INTERFACE = source_interface.load(PYTHON / "isoprefill_sglang_jax" / "interface.json")["interface"]
sys.path.insert(0, str(STAND_IN))

from sgl_jax.srt.entrypoints import engine
from sgl_jax.srt.layers.attention.native_backend import NativeAttention
from sgl_jax.srt.managers.io_struct import TokenizedGenerateReqInput
from sgl_jax.srt.managers.scheduler import Scheduler
from sgl_jax.srt.managers.tokenizer_manager import TokenizerManager
from sgl_jax.srt.mem_cache.memory_pool import merge_kv
from sgl_jax.srt.model_executor.model_runner import ModelRunner
from sgl_jax.srt.server_args import ServerArgs

from isoprefill_pallas import paged
from isoprefill_pallas.heads import Heads
from isoprefill_sglang_jax import IncompatibleSglangJaxError, install, scoring
from isoprefill_sglang_jax.backend import MultiItemAttention, kernel_heads
from isoprefill_sglang_jax.items import RequestItems
from isoprefill_sglang_jax.scoring import common_prefix
from isoprefill_sglang_jax.versions import check_versions

install(allow_untested=True)

VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 64, 32, 4, 2, 64
LABELS = [3, 5, 63]
QUERY = list(range(1, 20))
ITEMS = [[20, 21, 22], [23], [24, 25, 26, 27, 28], [20, 21, 22], [30, 31]]


@functools.cache
def weights():
    generator = np.random.default_rng(0)

    def normal(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    return {
        "embedding": normal(VOCAB, HIDDEN),
        "position": normal(256, HIDDEN),
        "q": normal(HIDDEN, HEADS, HEAD_DIM) / 4,
        "k": normal(HIDDEN, KV_HEADS, HEAD_DIM) / 4,
        "v": normal(HIDDEN, KV_HEADS, HEAD_DIM) / 4,
        "o": normal(HEADS * HEAD_DIM, HIDDEN) / 8,
    }


def logprobs_alone(tokens):
    """log P(next token | tokens) of the stand-in's model, of one causal prompt, in float64."""
    w = {name: value.astype(np.float64) for name, value in weights().items()}
    x = w["embedding"][tokens] + w["position"][: len(tokens)]
    q, k, v = (np.einsum("th,hnd->tnd", x, w[name]) for name in "qkv")
    k, v = (np.repeat(array, HEADS // KV_HEADS, axis=1) for array in (k, v))
    scores = np.einsum("tnd,snd->nts", q, k) / np.sqrt(HEAD_DIM)
    scores = 20.0 * np.tanh(scores / 20.0)
    scores = np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    x = x + np.einsum("nts,snd->tnd", p, v).reshape(len(tokens), -1) @ w["o"]
    logits = x[-1] @ w["embedding"].T
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def expected(query, items, labels=LABELS):
    return np.array([logprobs_alone(query + item)[labels] for item in items])


class Server:
    """Front end, scheduler and detokenizer in one process."""

    def __init__(self, page_size=1, tensor=1, data=1, attention="xla", **arguments):
        self.arguments = ServerArgs(page_size=page_size, dp_size=data, **arguments)
        mesh = jax.make_mesh(
            (data, tensor), ("data", "tensor"), (jax.sharding.AxisType.Explicit,) * 2
        )
        self.runner = ModelRunner(weights(), self.arguments, mesh, 512 * data)
        # What install(attention=…) would do; it can be called once a process.
        self.runner.attn_backend.kernel_heads = kernel_heads(self.runner, attention)
        config = type("Config", (), {"vocab_size": VOCAB})
        self.front = TokenizerManager(self.arguments, config)
        self.scheduler = Scheduler(self.arguments, self.runner, self.front.receive)
        self.front.scheduler = self.scheduler

    def score(self, *requests, run=None):
        """Log-probabilities of requests that wait together; `run(scheduler)` runs them."""

        async def together():
            tasks = [asyncio.create_task(self.front.score_request(*each)) for each in requests]
            for _ in range(5):
                await asyncio.sleep(0)
            if self.scheduler.waiting_queue:
                (run or run_all)(self.scheduler)
            return await asyncio.gather(*tasks)

        return [np.log(scores) for scores in asyncio.run(together())]

    def add(self, rid, tokens, extra_key=None, max_new_tokens=1):
        """Queues a request beside the front end; its answer goes to a future of that name."""
        self.front.answers[rid] = Answer()
        params = type("Params", (), {"max_new_tokens": max_new_tokens})
        self.scheduler.handle_generate_request(
            TokenizedGenerateReqInput(rid, tokens, params, extra_key)
        )
        return self.scheduler.waiting_queue[-1]


class Answer:
    value = None

    def set_result(self, value):
        self.value = value


def run_all(scheduler, ranks=1):
    """All waiting requests in one pass, dealt out to the ranks."""
    requests = [(request, len(request.origin_input_ids)) for request in scheduler.waiting_queue]
    scheduler.run([requests[rank::ranks] for rank in range(ranks)])


# The interface


def test_stand_ins_have_the_real_interface():
    """Tests on stand-ins whose arguments differ from the real ones would prove nothing about sglang-jax."""
    assert source_interface.differences(STAND_IN, INTERFACE) == []


@pytest.mark.parametrize(
    ("module", "old", "new", "named"),
    [
        (
            "layers/attention/base_attn_backend",
            "q, k, v, layer",
            "q, k, layer, v",
            "base_attn_backend.AttentionBackend.__call__: expected (self, q, k, v, layer, forward_batch, **kwargs), "
            "found (self, q, k, layer, v, forward_batch, **kwargs)",
        ),
        (
            "layers/attention/base_attn_backend",
            "get_max_running_reqests",
            "get_max_running_requests",
            "get_max_running_reqests: expected (max_context_len, page_size), found none",
        ),
        ("managers/scheduler", "class Scheduler(", "class Planner(", "Scheduler: expected a class, found none"),
        ("managers/scheduler", "_add_request_to_queue", "_enqueue", "_add_request_to_queue"),
        ("managers/schedule_batch", "self.extra_key", "self.cache_salt", "Req.extra_key: expected an attribute"),
        ("managers/schedule_batch", "out_cache_loc: np", "loc: np", None),
        ("managers/schedule_batch", "cache_loc: np.ndarray\n    extend", "extend", "ModelWorkerBatch.cache_loc"),
        ("managers/tokenizer_manager", "item_first=False,\n        request", "request", "score_request: expected"),
        ("entrypoints/engine", "import run_scheduler_process", "import run_it", "engine.run_scheduler_process"),
        ("mem_cache/common", "is_insert=True", "*, is_insert=True", "release_kv_cache: expected"),
    ],
)  # fmt: skip
def test_a_planted_difference_is_named(module, old, new, named, tmp_path):
    """The detector itself; the one row without a name changes what the link does not use."""
    root = tmp_path / "root"
    shutil.copytree(STAND_IN, root)
    path = root / "sgl_jax" / "srt" / f"{module}.py"
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new))
    found = [str(difference) for difference in source_interface.differences(root, INTERFACE)]
    if named is None:
        assert found == []
    else:
        assert any(named in line for line in found), found


def test_a_missing_module_is_named(tmp_path):
    """An older sglang-jax lacks whole files."""
    shutil.copytree(STAND_IN, tmp_path / "root")
    (tmp_path / "root/sgl_jax/srt/layers/logits_processor.py").unlink()
    (found,) = source_interface.differences(tmp_path / "root", INTERFACE)
    assert str(found) == "sgl_jax.srt.layers.logits_processor: expected a module, found none"


def test_install_refuses_another_interface(tmp_path, monkeypatch):
    """Wrapping functions that are not what they were would fail later, inside a server."""
    root = tmp_path / "root"
    shutil.copytree(STAND_IN, root)
    path = root / "sgl_jax/srt/model_executor/model_runner.py"
    path.write_text(
        path.read_text().replace(
            "def forward(self, forward_batch, logits", "def forward(self, logits"
        )
    )
    monkeypatch.setattr(sys.modules["sgl_jax"], "__path__", [str(root / "sgl_jax")])
    with pytest.raises(
        IncompatibleSglangJaxError, match=r"ModelRunner\.forward: expected \(self, forward_batch, "
    ):
        check_versions(allow_untested=True)


def test_install_names_the_versions_that_differ(monkeypatch):
    """A user must learn which of their versions is not the tested one."""
    monkeypatch.setattr(jax, "__version__", "0.11.0")
    monkeypatch.setattr(sys, "version_info", type("V", (), {"major": 3, "minor": 14}))
    with pytest.raises(IncompatibleSglangJaxError) as raised:
        check_versions(allow_untested=False)
    assert "jax 0.11.0: expected 0.10.2" in str(raised.value)
    assert "Python 3.14: expected 3.12 or 3.13" in str(raised.value)
    check_versions(allow_untested=True)


def test_without_sglang_jax_the_import_says_what_to_install():
    """Otherwise a user sees `No module named sgl_jax` and installs the old release from the package index."""
    done = subprocess.run(
        [sys.executable, "-c", "import isoprefill.integrations.sglang_jax"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p != str(STAND_IN))},
        text=True,
        capture_output=True,
    )
    assert done.returncode
    assert "ImportError" in done.stderr
    assert "pip install <sglang-jax>/python[cpu]" in done.stderr


def test_child_processes_install_too():
    """sglang-jax spawns its scheduler, which imports everything anew."""
    target = pickle.loads(pickle.dumps(engine.run_scheduler_process))
    written = []
    target(None, None, None, written)
    assert written == ["the original ran"]
    assert target.func.__module__ == "isoprefill_sglang_jax.hooks"
    assert target.args == ({"attention": "auto", "allow_untested": True},)


# What a request is


@pytest.mark.parametrize("lengths", [(4,), (3, 1, 5), (1, 1, 1, 1), (40, 2)])
def test_items_have_the_layout_of_a_pack(lengths):
    """Positions and read-out rows are those of the C++ layout, computed in any chunks."""
    items = RequestItems(7, lengths, (1,))
    layout = PackedLayout.from_lengths(7, lengths)
    total = items.num_tokens
    for cuts in ([0, total], [0, 3, total], [0, 8, 9, total], list(range(total + 1))):
        pieces = list(itertools.pairwise(cuts))
        np.testing.assert_array_equal(
            np.concatenate([items.positions(*piece) for piece in pieces]), layout.positions
        )
        np.testing.assert_array_equal(
            np.concatenate([items.readouts(*piece) for piece in pieces]), layout.readout_rows
        )


def test_items_survive_the_way_to_the_scheduler_and_never_share_a_cache_key():
    """Keys and values of items depend on more than the tokens before them: no other request may find them."""
    items = RequestItems(7, (3, 2), (5, 9))
    assert RequestItems.decode(items.encode()) == items
    assert items.encode() != items.encode()
    assert RequestItems.decode(None) is None
    assert RequestItems.decode("somebody's salt") is None


@pytest.mark.parametrize(
    "body",
    ["", "[]", "[1, 2]", '["", 0, [1], [1]]', '["", 1, [], [1]]', '["", 1, [1, 0], [1]]', '["", 1, [1], [-1]]',
     '["", 1, [1.5], [1]]', '["", true, [1], [1]]', '["", 1, 3, [1]]', '["", 1, ["1"], [1]]', "{}",
     pytest.param("[" * 100_000, id="deep")],
)  # fmt: skip
def test_a_forged_key_is_refused(body):
    """Clients of sglang-jax's HTTP server may set extra_key: no content of it may reach the scheduler unchecked."""
    with pytest.raises(ValueError, match="no valid multi-item request"):
        RequestItems.decode("isoprefill-items:" + body)


def test_common_prefix_leaves_every_prompt_a_token():
    """An item without a token of its own would have no read-out row."""
    assert common_prefix([[1, 2, 3], [1, 2, 4]]) == 2
    assert common_prefix([[1, 2], [1, 2, 4]]) == 1
    assert common_prefix([[1, 2, 3]]) == 2
    assert common_prefix([[1], [1, 2]]) == 0


# The cache


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


# Scores


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


# score_request


def test_softmax_runs_on_the_host_and_normalises_over_labels():
    """The front end must not touch the device that the scheduler owns."""
    server = Server()

    async def go():
        task = asyncio.create_task(server.front.score_request(QUERY, ITEMS, LABELS, True))
        for _ in range(5):
            await asyncio.sleep(0)
        run_all(server.scheduler)
        return await task

    logprobs = expected(QUERY, ITEMS)
    weights_of_labels = np.exp(logprobs)
    np.testing.assert_allclose(
        asyncio.run(go()),
        weights_of_labels / weights_of_labels.sum(axis=1, keepdims=True),
        atol=1e-4,
    )

    assert "jax." not in inspect.getsource(scoring).replace("sgl_jax.", "").replace(
        "sglang_jax.", ""
    )


def test_text_is_tokenised_as_sglang_jax_does():
    """Query and item are one text: a tokenizer that joins them at the seam must be followed."""

    def tokenizer(texts):  # pairs of letters, so the seam moves with the query's length
        return {
            "input_ids": [
                [ord(text[i]) % 31 + len(text[i : i + 2]) for i in range(0, len(text), 2)]
                for text in texts
            ]
        }

    server = Server()
    server.front.tokenizer = tokenizer
    query, items = "abcdefg", ["hij", "k", "hlmnop"]
    (scores,) = server.score((query, items, LABELS))
    prompts = tokenizer([query + item for item in items])["input_ids"]
    assert common_prefix(prompts) == 3
    np.testing.assert_allclose(
        scores, [logprobs_alone(prompt)[LABELS] for prompt in prompts], atol=1e-4
    )


@pytest.mark.parametrize("items", [ITEMS, [[20, *item] for item in ITEMS]], ids=["none", "first"])
def test_prompts_with_the_item_first_are_left_to_sglang_jax(items):
    """Nothing is shared, or a token that begins every text: there is nothing to pack."""
    server = Server()
    server.score((QUERY, items, LABELS, False, True))
    assert server.front.calls == [(QUERY, items, True)]
    assert server.front.sent == 0


def test_prompts_that_begin_differently_are_left_to_sglang_jax():
    """A tokenizer may merge the end of a short query with each item."""
    server = Server()
    server.score(([], ITEMS, LABELS))
    assert server.front.calls == [([], ITEMS, False)]
    assert server.front.sent == 0


def test_an_empty_item_scores_the_query():
    """As in sglang-jax, where the prompt is then the query."""
    (scores,) = Server().score((QUERY, [[], [4]], LABELS))
    np.testing.assert_allclose(scores, expected(QUERY, [[], [4]]), atol=1e-4)


def test_items_that_do_not_fit_into_one_prefill_are_cut_into_several():
    """The query is computed again in each; no limit of the server is exceeded."""
    server = Server(max_prefill_tokens=25)
    (scores,) = server.score((QUERY, ITEMS, LABELS))
    np.testing.assert_allclose(scores, expected(QUERY, ITEMS), atol=1e-4)
    # 3 + 1 items' tokens fit beside 19 of the query, then 5, then 3 + 2
    assert server.front.sent == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((QUERY, ITEMS, None), "label_token_ids must be provided"),
        ((QUERY, ITEMS, []), "label_token_ids must not be empty"),
        ((QUERY, ITEMS, [VOCAB]), "out of vocabulary"),
        ((QUERY, ITEMS, [-1]), "out of vocabulary"),
        ((QUERY, [], LABELS), "items must be provided"),
        ((QUERY, "text", LABELS), "Invalid combination"),
        (("text", ITEMS, LABELS), "Invalid combination"),
        (("text", ["item"], LABELS), "skip_tokenizer_init"),
        (([], [[]], LABELS), "query and item 0 have no tokens"),
        ((QUERY * 14, ITEMS, LABELS), "longer than the model's context length"),
        ((QUERY, [[1] * 60], LABELS), "query and item 0 have 79 tokens; this server takes 50"),
    ],
)
def test_a_bad_request_is_refused_before_it_is_sent(arguments, message):
    """With the name and the limit, and without a prefill."""
    server = Server(max_prefill_tokens=50)
    with pytest.raises(ValueError, match=message):
        server.score(arguments)
    assert server.front.sent == 0


@pytest.mark.parametrize(
    ("items", "tokens", "max_new_tokens", "message"),
    [
        (
            RequestItems(2, (1,), (1,)),
            [1] * 4,
            0,
            "query and items have 3 tokens, the request has 4",
        ),
        (RequestItems(2, (1,), (VOCAB,)), [1] * 3, 0, "label token id 64 is not below"),
        (RequestItems(2, (1,), (1,)), [1] * 3, 5, "max_new_tokens 0, got 5"),
    ],
)
def test_the_scheduler_refuses_what_the_front_end_would_not_send(
    items, tokens, max_new_tokens, message
):
    """Clients can reach the scheduler past our front end: through extra_key of an ordinary request."""
    server = Server()
    request = server.add("forged", tokens, items.encode(), max_new_tokens)
    assert message in request.to_finish.message
    assert request.isoprefill_items is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda server: setattr(server.runner.model.attn, "sliding_window_size", 128), "sliding window of 128"),
        (lambda server: setattr(server.runner.model.attn, "xai_temperature_len", 9), "xai_temperature_len 9"),
        (lambda server: setattr(server.runner.model, "attention_sink_bias", 1.0), "attention sinks"),
        (lambda server: setattr(server.runner, "attn_backend", server.runner.attn_backend.own), "NativeAttention"),
        (lambda server: setattr(server.arguments, "speculative_algorithm", "EAGLE"), "EAGLE"),
        (lambda server: setattr(server.arguments, "disaggregation_mode", "prefill"), "prefill"),
        (lambda server: setattr(server.arguments, "enable_mixed_chunk", True), "enable_mixed_chunk"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_isolate_says_so(change, message):
    """Scores from attention that lacks a feature of the model, or from causal attention, would be wrong in silence."""
    server = Server()
    change(server)
    with pytest.raises(ValueError, match=message):
        server.score((QUERY, ITEMS, LABELS), run=lambda scheduler: scheduler.stream_output_generation(
            scheduler.waiting_queue, False, False
        ))  # fmt: skip


def test_missing_log_probabilities_are_an_error():
    """A scheduler without our code would answer with nothing, and NaN must not turn into a score."""
    for logprobs, message in (
        (None, "returned no log-probabilities"),
        (np.full((5, 3), np.nan), "or NaN"),
    ):
        server = Server()

        def run(scheduler, logprobs=logprobs, server=server):
            encoded = (
                logprobs
                if logprobs is None
                else base64.b64encode(logprobs.astype(np.float32).tobytes())
            )
            server.front.answers["0"].set_result(
                {"meta_info": {"finish_reason": {"type": "length"}, "routed_experts": encoded}}
            )

        with pytest.raises(RuntimeError, match=message):
            server.score((QUERY, ITEMS, LABELS), run=run)
