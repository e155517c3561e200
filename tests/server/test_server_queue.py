"""How many requests and tokens may wait, and how they leave the queue."""

import concurrent.futures
import json

from api_answers import code_of
from raw_http import BODY, BOUNDED, QUEUE, connect, raw_request, scores, send
from running_server import running, wait_for
from server_fixtures import faulty_command

pytest_plugins = ["server_fixtures"]
FLAGS = BOUNDED


def test_a_full_queue_is_429_and_what_was_in_it_is_answered(server):
    """More requests than may wait: refused at once, with the time to come again, and nothing is kept of them."""
    with concurrent.futures.ThreadPoolExecutor(QUEUE) as pool:
        with server.scheduler_stopped():
            sent = send(server, QUEUE, pool)
            for _ in range(50):
                refused = server.post("/v1/score", **BODY)
                assert code_of(refused) == "queue_full"
                assert int(refused.headers["retry-after"]) >= 1
            assert server.metric("queue_requests") == QUEUE
            assert server.metric("queue_tokens") == QUEUE * 6
        assert all(one.result().status_code == 200 for one in sent)
    assert server.metric("queue_requests") == 0


def test_what_clients_gave_up_is_bounded_while_the_scheduler_has_not_read_so(server):
    """Post, hang up and post again must not pile up requests on their way to a scheduler that is busy."""
    body = raw_request(json.dumps(BODY).encode())
    with server.scheduler_stopped():
        for _ in range(2 * QUEUE):
            with connect(server) as client:
                client.sendall(body)
                server.wait_for_in_flight(1)
            server.wait_for_in_flight(0)
        assert code_of(server.post("/v1/score", **BODY)) == "queue_full"
    wait_for(lambda: server.post("/v1/score", **BODY).status_code == 200)


def test_scores_to_come_count_as_tokens_that_wait(server):
    """Few labels for many items are many scores."""
    body = {**BODY, "label_token_ids": [1, 2, 3]}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with server.scheduler_stopped():
            (sent,) = send(server, 1, pool, body)
            assert server.metric("queue_tokens") == 6 + 2 * 3
        assert sent.result().status_code == 200


def test_a_query_that_is_computed_for_every_item_counts_for_every_item(server):
    """With item_first a short body is much work."""
    body = {**BODY, "item_first": True}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with server.scheduler_stopped():
            (sent,) = send(server, 1, pool, body)
            assert server.metric("queue_tokens") == (3 + 1) + (3 + 2)
        assert sent.result().status_code == 200


def test_tokens_that_wait_are_bounded_too(server):
    """Few large requests fill the queue as many small ones do."""
    large = {"query": "a" * 300, "items": ["b" * 100]}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        with server.scheduler_stopped():
            sent = send(server, 2, pool, large)
            assert code_of(server.post("/v1/score", **large)) == "queue_full"
        assert all(one.result().status_code == 200 for one in sent)


def test_a_client_that_goes_away_leaves_the_queue(server):
    """Its place is free at once, and its items are never scored."""
    scored = server.metric("batch_requests_sum")
    with server.scheduler_stopped():
        body = json.dumps(BODY).encode()
        clients = [connect(server) for _ in range(QUEUE)]
        for client in clients:
            client.sendall(raw_request(body))
        server.wait_for_in_flight(QUEUE)
        for client in clients:
            client.close()
        server.wait_for_in_flight(0)
    scores(server)
    assert server.metric("http_requests_total", status="499", code="client_gone") >= QUEUE
    assert server.metric("http_requests_total", status="500") == 0
    # What was sent and cancelled before the scheduler woke up was never in a batch.
    assert server.metric("batch_requests_sum") == scored + 1


def test_a_request_that_takes_too_long_is_503_and_leaves_the_queue(model_directory):
    with running(*faulty_command(model_directory, request_timeout_s=0.5)) as server:
        with server.scheduler_stopped():
            assert code_of(server.post("/v1/score", **BODY)) == "request_timeout"
            assert server.metric("queue_requests") == 0
        wait_for(lambda: server.post("/v1/score", **BODY).status_code == 200)
