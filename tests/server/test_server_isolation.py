"""Requests that share a prefill do not change one another's scores, whatever they hold and however many they are."""

import concurrent.futures
import pathlib
import random
import sys

import numpy as np
import pytest

import faulty_server
import small_models
from huggingface_directory import save_directory
from running_server import running, running_server

BATCH_TOKENS = 1024
CLIENTS = 40


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> str:
    model = small_models.random_model("llama")
    return str(save_directory(model, tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def server(model_directory):
    flags = [
        f"--model={model_directory}",
        "--warmup-tokens=",
        f"--max-batch-tokens={BATCH_TOKENS}",
    ]
    with running_server(*flags) as one:
        yield one


def together(server, bodies: list[dict]) -> list[dict]:
    """Answers to requests that are sent in this order and, as the metrics say, computed in one prefill."""
    batches = server.metric("batch_seconds_count")
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        with server.scheduler_stopped():
            sent = []
            for number, body in enumerate(bodies, 1):
                sent.append(pool.submit(server.score, **body))
                server.wait_for_in_flight(number)
        answers = [one.result() for one in sent]
    assert server.metric("batch_seconds_count") == batches + 1
    return answers


def numbers(answer: dict) -> np.ndarray:
    """Every score in an answer, in log space."""
    if isinstance(answer["scores"][0], dict):
        return np.array([one["score"] for one in answer["scores"]])
    return np.log(np.concatenate(answer["scores"]))


def random_request(chance: random.Random, lengths: list[int], **options) -> dict:
    """A request whose query and items have these lengths."""
    texts = [[chance.randrange(3, 250) for _ in range(length)] for length in lengths]
    return {"query": texts[0], "items": texts[1:], **options}


def largest_change(server, victim: dict, ours: list[dict], theirs: list[dict]) -> float:
    """How much the victim's scores differ between two sets of neighbours."""
    place = len(ours) // 2
    scores = []
    for neighbours in (ours, theirs):
        bodies = [*neighbours[:place], victim, *neighbours[place:]]
        scores.append(numbers(together(server, bodies)[place]))
    return float(np.abs(scores[0] - scores[1]).max())


MODES = {
    "likelihoods": {},
    "labels": {"label_token_ids": [5, 6, 7]},
    "softmax": {"label_token_ids": [5, 6, 7], "apply_softmax": True},
    "labels of each item": {"label_token_ids": [[5], [6, 7], [8]]},
    "item first": {"item_first": True},
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES.keys())
def test_neighbours_content_changes_nothing_at_all(server, options):
    """Bit for bit: only what the other requests of the batch hold differs."""
    chance = random.Random(0)
    victim = random_request(chance, [9, 3, 7, 1], **options)
    lengths = [[5, 2, 2], [30, 11], [1, 1, 1, 1], [9, 3, 7, 1]]
    ours, theirs = (
        [random_request(random.Random(seed), one) for one in lengths] for seed in (1, 2)
    )
    assert largest_change(server, victim, ours, theirs) == 0.0


def test_number_lengths_and_kinds_of_neighbours_change_next_to_nothing(server):
    """From alone to a full batch of everything that a request can be."""
    chance = random.Random(3)
    victim = random_request(chance, [20, 6, 6, 2])
    alone = numbers(together(server, [victim])[0])
    for number in (1, 3, 9):
        neighbours = [
            random_request(
                chance,
                [chance.randrange(1, 40) for _ in range(4)],
                **chance.choice(list(MODES.values())),
            )
            for _ in range(number)
        ]
        beside = numbers(together(server, [*neighbours, victim])[-1])
        np.testing.assert_allclose(beside, alone, atol=1e-4, rtol=0)


def test_repeated_and_related_requests(server):
    """A neighbour that holds the victim's own query, or its items, gives nothing away either."""
    chance = random.Random(4)
    victim = random_request(chance, [12, 4, 4])
    same_query = {"query": victim["query"], "items": [[9, 9, 9, 9], victim["items"][0]]}
    strangers = [random_request(chance, [12, 4, 4]) for _ in range(3)]
    related = [dict(victim), same_query, {"query": victim["items"][0] * 3, "items": [[7] * 4] * 2}]
    assert largest_change(server, victim, strangers, related) == 0.0


@pytest.mark.parametrize(("algorithm", "limit"), [("packed", 0.0), ("auto", 1e-4)])
def test_a_query_that_somebody_else_has_asked(model_directory, algorithm, limit):
    """With "auto" the engine keeps a long query that comes again, which only rounds otherwise; "packed" never does."""
    chance = random.Random(7)
    victim = random_request(chance, [80, 4, 4])
    stranger = random_request(chance, [80, 5])
    same = {"query": victim["query"], "items": stranger["items"]}
    flags = [f"--model={model_directory}", "--warmup-tokens=", f"--algorithm={algorithm}"]
    with running_server(*flags) as server:
        alone = numbers(together(server, [stranger, victim])[1])
        reused = server.metric("prefix_cache_hit_tokens_total")
        beside = numbers(together(server, [same, same, victim])[2])
        assert np.abs(beside - alone).max() <= limit
        # The test is about reuse: there is some, or there cannot be any.
        assert (server.metric("prefix_cache_hit_tokens_total") > reused) is (algorithm == "auto")


def test_slices_of_a_large_request_beside_small_ones(server):
    """A request above the budget is cut, others go in between: everybody's scores stay, the small come first."""
    chance = random.Random(5)
    large = random_request(chance, [100, *[20] * 150])  # 3,100 tokens: four batches at least
    small = random_request(chance, [10, 5, 5])
    alone = numbers(server.score(**large)), numbers(server.score(**small))
    cut = server.metric("batch_seconds_count")
    finished = []

    def score(body):
        answer = server.score(**body)
        finished.append(len(answer["scores"]))
        return numbers(answer)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with server.scheduler_stopped():
            sent = []
            for body in (large, small):
                sent.append(pool.submit(score, body))
                server.wait_for_in_flight(len(sent))
        beside = [one.result() for one in sent]
    assert server.metric("batch_seconds_count") - cut >= 4
    assert finished == [2, 150]
    for one, expected in zip(beside, alone, strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-4, rtol=0)


def test_concurrent_load(server):
    """Forty clients at once, each of which knows its scores: however they are packed, they get those."""
    chance = random.Random(6)
    bodies = [
        random_request(
            chance,
            [chance.randrange(1, 60) for _ in range(chance.randrange(2, 8))],
        )
        for _ in range(120)
    ]
    expected = [numbers(server.score(**body)) for body in bodies]
    requests = server.metric("batch_requests_sum")
    batches = server.metric("batch_requests_count")
    answers = []
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        for begin in range(0, len(bodies), CLIENTS):
            # Held still until all have come: a small model may be faster than so many clients.
            with server.scheduler_stopped():
                some = bodies[begin : begin + CLIENTS]
                sent = [pool.submit(server.score, **body) for body in some]
                server.wait_for_in_flight(len(sent))
            answers += [numbers(one.result()) for one in sent]
    packed = (server.metric("batch_requests_sum") - requests) / (
        server.metric("batch_requests_count") - batches
    )
    assert packed > 1.5, "the load was not packed: the test says nothing"
    for one, wanted in zip(answers, expected, strict=True):
        np.testing.assert_allclose(one, wanted, atol=1e-4, rtol=0)


def test_a_leak_is_found(model_directory):
    """The detector itself, on a server whose engine leaks a millionth between requests."""
    program = pathlib.Path(__file__).parent.parent / "support" / "faulty_server.py"
    with running(sys.executable, str(program), model_directory) as server:
        victim = {"query": [1], "items": [[2, 3]]}
        clean = [{"query": [1], "items": [[4, 4]]}, {"query": [1], "items": [[5, 5]]}]
        leak = [{"query": [1], "items": [[4, faulty_server.LEAK]]}, clean[1]]
        assert largest_change(server, victim, clean, clean[::-1]) == 0.0
        assert largest_change(server, victim, clean, leak) == pytest.approx(1e-6)


def test_several_devices_score_as_one_and_no_cache_keeps_nothing(server, model_directory):
    """Two simulated devices; the third time a query comes, the other server has its keys and values."""
    body = random_request(random.Random(5), [80, 3, 7])
    flags = [f"--model={model_directory}", "--warmup-tokens=", "--mesh=tensor=2"]
    devices = "--xla_force_host_platform_device_count=2"
    with running_server(*flags, "--prefix-cache-bytes=0", XLA_FLAGS=devices) as meshed:
        answers = [[one.score(**body) for _ in range(3)] for one in (meshed, server)]
    for ours, theirs in zip(*answers, strict=True):
        np.testing.assert_allclose(numbers(ours), numbers(theirs), atol=1e-4)
    cached = [last["usage"]["prompt_tokens_details"]["cached_tokens"] for *_, last in answers]
    assert cached == [0, 80]
