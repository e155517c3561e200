"""Measures the server under load: `bazel run //tools:bench_server`.

An open-loop client in a process of its own sends requests over loopback sockets at random times (Poisson, fixed
seed), at rates that rise from a quarter of what one request after another gives, until the 99th percentile of the
latency passes a second or a request is not answered with 200; then once more at three times that rate, where a full
queue must answer 429 and nothing else may go wrong. It does this for three servers on this machine, one after another,
which get the same requests, and none of them twice:

    packed      with its defaults
    unpacked    one request in each prefill
    serial      query + item one by one, one request after another

and for a server whose engine does nothing, which is the front end's own time (front_end.py). Requests that come one
after another are measured beside the engine without a server. Every request is a query and items of random tokens, with
two labels. Everything is compiled before it is measured.
"""

import dataclasses
import json
import os
import random
import statistics
import sys
from typing import Any

from absl import app, flags

import callers_directory
from bench_server.benched_server import BenchedServer
from bench_server.front_end import front_end
from bench_server.latencies import arrivals, percentiles
from bench_server.lone_engine import LoneEngine
from benchmark import write_json

SERVE = (sys.executable, "-m", "isoprefill", "serve")
SERVERS: dict[str, tuple[str, ...]] = {
    "packed": (),
    "unpacked": ("--max-batch-requests=1",),
    "serial": ("--algorithm=serial", "--max-batch-requests=1"),
}
FIRST_RATE = 0.25  # over that of one request after another
OVERLOAD = 3  # times the first rate that is not held
WARM_UP_ROUNDS = 10
HEADER = (
    f"{'server':10}{'rate/s':>8}{'sent':>6}{'200':>6}{'429':>6}{'other':>7}{'done/s':>8}{'p50 s':>8}{'p95 s':>8}"
    f"{'p99 s':>8}{'req/batch':>11}{'fill':>7}{'compiled':>9}"
)
ROW = (
    "{server:10}{rate:8.2f}{requests:6}{ok:6}{refused:6}{failed:7}{throughput:8.2f}{p50:8.3f}{p95:8.3f}"
    "{p99:8.3f}{requests_per_batch:11.2f}{batch_fill:7.2f}{compilations:9}"
)

_MODEL = flags.DEFINE_string(
    "model", "smollm2-135m", "A pinned model's name, a .gguf file, or a directory with safetensors."
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the weights.")
_SERVERS = flags.DEFINE_multi_enum(
    "server", list(SERVERS), list(SERVERS), "Servers to measure; may be repeated."
)
_QUERY = flags.DEFINE_integer("query-tokens", 24, "Tokens of a query.", lower_bound=1)
_ITEMS = flags.DEFINE_integer("items", 4, "Items of a request.", lower_bound=1)
_ITEM = flags.DEFINE_integer("item-tokens", 4, "Tokens of an item.", lower_bound=1)
_BATCH = flags.DEFINE_integer("max-batch-tokens", 512, "Token budget of a prefill.", lower_bound=1)
_QUEUE = flags.DEFINE_integer(
    "max-queue-requests",
    24,
    "Maximum number of requests accepted and not yet answered.",
    lower_bound=1,
)
_LATENCY = flags.DEFINE_float(
    "latency", 1.0, "Highest 99th percentile of the latency that counts as sustained, in seconds."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the tokens and of the times.")
_QUICK = flags.DEFINE_bool(
    "quick", False, "Fewer and shorter steps: rates double, 3 seconds each instead of 8."
)
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file, as JSON.")


@dataclasses.dataclass(frozen=True)
class Steps:
    """How rates rise: the factor from one to the next, and how long each lasts."""

    factor: float
    seconds: float
    least_requests: int


FULL = Steps(factor=2**0.5, seconds=8.0, least_requests=20)
QUICK = Steps(factor=2.0, seconds=3.0, least_requests=8)


Row = dict[str, Any]


def bodies(chance: random.Random, number: int) -> list[str]:
    """Makes requests of one size, each of other tokens, which every vocabulary has."""

    def tokens(length: int) -> list[int]:
        return [chance.randrange(3, 250) for _ in range(length)]

    return [
        json.dumps(
            {
                "query": tokens(_QUERY.value),
                "items": [tokens(_ITEM.value) for _ in range(_ITEMS.value)],
                "label_token_ids": [1, 2],
                "apply_softmax": True,
            }
        )
        for _ in range(number)
    ]


def chance_of(purpose: str) -> random.Random:
    """Returns random numbers for one purpose: tokens sent before would be answered from the prefix cache."""
    return random.Random(f"{_SEED.value} {purpose}")


def measure(server: BenchedServer, name: str, step: int, rate: float, steps: Steps) -> Row:
    """Measures one rate, the `step`-th, whose number decides which requests are sent; prints and returns the row.

    Latencies are in seconds, of the requests that were answered with 200.
    """
    number = max(steps.least_requests, round(rate * steps.seconds))
    times = arrivals(chance_of(f"times {step}"), rate, number)
    counters = (
        "isoprefill_batch_requests_sum",
        "isoprefill_batch_requests_count",
        "isoprefill_batch_fill_ratio_sum",
        "isoprefill_compilations_total",
    )
    before = [server.metric(counter) for counter in counters]
    answers = server.send(bodies(chance_of(f"bodies {step}"), number), times)
    requests, batches, fill, compilations = (
        server.metric(counter) - value for counter, value in zip(counters, before, strict=True)
    )
    latencies = [latency for latency, status in answers if status == 200]
    ended = max(at + latency for at, (latency, _) in zip(times, answers, strict=True))
    refused = sum(status == 429 for _, status in answers)
    tail = percentiles(latencies)
    row = {
        "server": name,
        "rate": rate,
        "requests": number,
        "ok": len(latencies),
        "refused": refused,
        "failed": number - len(latencies) - refused,
        "throughput": len(latencies) / ended,
        **tail,
        "requests_per_batch": requests / max(1, batches),
        "batch_fill": fill / max(1, batches),
        "compilations": round(compilations),
        "held": len(latencies) == number and tail["p99"] <= _LATENCY.value,
    }
    print(ROW.format_map(row), flush=True)
    return row


def warm_up(server: BenchedServer, name: str) -> None:
    """Sends bursts of every size that one prefill can hold, until two rounds in a row have compiled nothing.

    A request goes before each burst, which gathers while that is computed. Sent alone, a burst may be cut anywhere.
    """
    chance = chance_of("warm-up")
    rows = _QUERY.value + _ITEMS.value * _ITEM.value
    packs = "--max-batch-requests=1" not in SERVERS[name]
    most = min(_QUEUE.value - 1, _BATCH.value // rows) if packs else 0
    server.send(bodies(chance, 1), [0.0])  # compiles
    head_start = lone_latency(server, chance) / 3
    quiet_rounds = 0
    compiled = server.metric("isoprefill_compilations_total")
    for _ in range(WARM_UP_ROUNDS):
        for number in range(most + 1):
            server.send(bodies(chance, 1 + number), [0.0] + [head_start] * number)
        before, compiled = compiled, server.metric("isoprefill_compilations_total")
        quiet_rounds = quiet_rounds + 1 if compiled == before else 0
        if quiet_rounds == 2:
            return
    sys.exit(f"{name}: something was compiled until the end of {WARM_UP_ROUNDS} rounds of warm-up")


def lone_latency(server: BenchedServer, chance: random.Random) -> float:
    """Returns the median latency of requests that are sent one after another."""
    answers = [server.send(bodies(chance, 1), [0.0]) for _ in range(5)]
    return statistics.median(latency for ((latency, _),) in answers)


def server_flags() -> list[str]:
    return [
        "--port=0",
        "--log-format=json",
        "--warmup-tokens=",
        f"--model={_MODEL.value}",
        f"--dtype={_DTYPE.value}",
        f"--max-batch-tokens={_BATCH.value}",
        f"--max-queue-requests={_QUEUE.value}",
    ]


def rising_rates(name: str) -> list[Row]:
    """Measures one server; the last row is the overload."""
    steps = QUICK if _QUICK.value else FULL
    command = [*SERVE, *SERVERS[name], *server_flags()]
    rows: list[Row] = []
    with BenchedServer(*command) as server:
        warm_up(server, name)
        rate = FIRST_RATE / lone_latency(server, chance_of("one after another"))
        while not rows or rows[-1]["held"]:
            rows.append(measure(server, name, len(rows), rate, steps))
            rate *= steps.factor
        rows.append(measure(server, name, len(rows), OVERLOAD * rows[-1]["rate"], steps))
    return rows


def low_load() -> dict[str, float]:
    """Measures one request after another, by the server and by the engine alone, in turn, with a pause before each."""
    rounds, number = (3, 10) if _QUICK.value else (7, 20)
    by_server: list[float] = []
    by_engine: list[float] = []
    chance = chance_of("low load")
    with (
        BenchedServer(*SERVE, *server_flags()) as server,
        LoneEngine(_MODEL.value, _DTYPE.value) as engine,
    ):
        engine.latencies(bodies(chance, 5))
        server.send(bodies(chance, 5), [0.5 * place for place in range(5)])
        for _ in range(rounds):
            latencies = engine.latencies(bodies(chance, number))
            by_engine += latencies
            pause = 3 * max(latencies)
            times = [pause * place for place in range(number)]
            answers = server.send(bodies(chance, number), times)
            by_server += [latency for latency, status in answers if status == 200]
    row = {"server_p50": statistics.median(by_server), "engine_p50": statistics.median(by_engine)}
    row["ratio"] = row["server_p50"] / row["engine_p50"]
    print(
        f"one request after another: server p50 {1e3 * row['server_p50']:.2f} ms, engine alone "
        f"{1e3 * row['engine_p50']:.2f} ms; {row['ratio']:.2f} times",
        flush=True,
    )
    return row


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    print(
        f"{_MODEL.value} in {_DTYPE.value}, {os.cpu_count()} cores, "
        f"query {_QUERY.value} + {_ITEMS.value} x {_ITEM.value} tokens, "
        f"batches of {_BATCH.value} tokens, queue of {_QUEUE.value}"
    )
    idle = front_end(_MODEL.value, _SEED.value)
    low = low_load()
    print(HEADER)
    rows = [row for name in _SERVERS.value for row in rising_rates(name)]
    held = {
        name: max(
            (row["rate"] for row in rows if row["server"] == name and row["held"]), default=0.0
        )
        for name in _SERVERS.value
    }
    for name, rate in held.items():
        lowest = min(row["rate"] for row in rows if row["server"] == name)
        says = f"{rate:.2f}/s" if rate else f"under {lowest:.2f}/s, the lowest tried"
        print(f"{name}: highest rate sustained with p99 up to {_LATENCY.value:g} s: {says}")
        if name != "packed" and "packed" in held:
            more = "" if rate else "more than "
            print(f"  packed sustains {more}{held['packed'] / (rate or lowest):.2f} times that")
    own_flags = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    settings = {flag.name: flag.value for flag in own_flags}
    report = {
        "flags": settings,
        "front_end": idle,
        "low_load": low,
        "rows": rows,
        "highest_rate_held": held,
    }
    write_json(_JSON.value, report)


if __name__ == "__main__":
    app.run(main)
