"""Requests of the link to sglang-jax: how items travel, what the front end sends, what either side refuses."""

import sglang_server  # isort: skip # noqa: F401 - it lets the others be found

import asyncio
import base64
import inspect
import itertools

import numpy as np
import pytest

from isoprefill import PackedLayout
from isoprefill_sglang_jax import scoring
from isoprefill_sglang_jax.items import RequestItems
from isoprefill_sglang_jax.scoring import common_prefix
from sglang_server import ITEMS, LABELS, QUERY, VOCAB, Server, expected, logprobs_alone, run_all


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
