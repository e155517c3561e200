"""The front end's own time: a server whose engine does nothing.

It is measured in turn with a bare server on the same stack, which answers with the body that it gets: its time is the
least that the stack takes. Tokenising is measured alone.
"""

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench_server.benched_server import HERE, BenchedServer
from bench_server.latencies import arrivals, percentiles
from isoprefill.models.sources.source import find_model, load_tokenizer

RATES = (20, 100)
ROUNDS = 5
QUERY_TEXT = "Is this a fruit? " * 6
ITEM_TEXTS = [f" The {number}th thing is an apple." for number in range(10)]


def front_end_row(name: str, rate: int, seconds: Sequence[float], cpu_s: float) -> dict[str, Any]:
    """Prints and returns what was measured of the front end, or of what it is compared with."""
    row = {"server": name, "rate": rate, **percentiles(seconds)}
    row["cpu_seconds"] = cpu_s / len(seconds)
    print(
        f"{name} alone at {rate}/s, 10 items of text: "
        + ", ".join(f"{of} {1e3 * row[of]:.2f} ms" for of in ("p50", "p95", "p99"))
        + f"; {1e3 * row['cpu_seconds']:.2f} ms of CPU a request",
        flush=True,
    )
    return row


def tokenising(model: str, rate: int) -> dict[str, Any]:
    """Measures what tokenising takes of the front end's time: here, with the pauses between requests."""
    tokenizer = load_tokenizer(find_model(model))
    seconds, began = [], time.process_time()
    for _ in range(100):
        time.sleep(1 / rate)
        started = time.perf_counter()
        tokenizer.encode(QUERY_TEXT)
        tokenizer.encode_each(ITEM_TEXTS, continues=True)
        seconds.append(time.perf_counter() - started)
    return front_end_row("tokenising", rate, seconds, time.process_time() - began)


def front_end(model: str, seed: int) -> list[dict[str, Any]]:
    """Measures a server whose engine does nothing, with text as clients send it, and what it is compared with."""
    body = json.dumps(
        {
            "query": QUERY_TEXT,
            "items": ITEM_TEXTS,
            "label_token_ids": [1, 2],
            "apply_softmax": True,
        }
    )
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as in the server
    rows = []
    with (
        BenchedServer(sys.executable, str(HERE / "idle_server.py"), model) as ours,
        BenchedServer(sys.executable, str(HERE / "echo_server.py")) as bare,
    ):
        servers = {"front end": ours, "echo": bare}
        for server in servers.values():
            server.send([body] * 100, [0.005 * number for number in range(100)])
        for rate in RATES:
            latencies: dict[str, list[float]] = {name: [] for name in servers}
            cpu = dict.fromkeys(servers, 0.0)
            for turn in range(ROUNDS):
                times = arrivals(random.Random(f"{seed} times {turn}"), rate, rate)
                for name, server in servers.items():
                    before = server.cpu_seconds()
                    answers = server.send([body] * len(times), times)
                    cpu[name] += server.cpu_seconds() - before
                    if any(status != 200 for _, status in answers):
                        raise RuntimeError(f"the {name} did not answer every request with 200")
                    latencies[name] += [latency for latency, _ in answers]
            rows += [
                front_end_row(name, rate, seconds, cpu[name]) for name, seconds in latencies.items()
            ]
            rows.append(tokenising(model, rate))
    return rows
