"""Random load and random faults on the real server, from a seed: `bazel run //tools:soak` (`--minutes=3`: a short one).

Clients send requests whose serial scores are known; some are slow, some vanish, and bursts of more than the queue takes
come at once. Meanwhile the scheduler is killed (SIGKILL), or held still (SIGSTOP), also for longer than a request may
take. It fails if a score is not the serial one, a request that was waited for got no answer or an unknown one, the
server does not recover, or memory or descriptors of the front end grow.
"""

import random
import signal
import statistics
import sys
import threading
import time
from typing import Any

from absl import app, flags

import callers_directory
from benchmark import write_json
from isoprefill.models.sources.pinned import FetchError
from soak.clients import PATIENCE_S, Client, Tally
from soak.requests import known_requests
from soak.server import ServerProcess, Usage, wait_until

_MODEL = flags.DEFINE_string(
    "model", "smollm2-135m", "A pinned model's name, a .gguf file, or a directory with safetensors."
)
_MINUTES = flags.DEFINE_float("minutes", 30, "Minutes of load.", lower_bound=0.1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of requests, clients and faults.")
_CLIENTS = flags.DEFINE_integer("clients", 6, "Clients beside bursts.", lower_bound=1)
_REQUESTS = flags.DEFINE_integer("requests", 60, "Different requests.", lower_bound=1)
_FAULT_S = flags.DEFINE_float("fault-every", 20, "Mean seconds between faults.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Write what was found to this file.")

QUEUE = 12
BURST = 20
REQUEST_TIMEOUT_S = 10
# Memory that allocators may still take after a third of the time, in MiB.
MEMORY_GROWTH_MIB = 32
DESCRIPTORS = 4


class Faults:
    """Makes one fault after another until it is told to end."""

    def __init__(self, server: ServerProcess, burst: Any, tally: Tally, seed: int) -> None:
        self._server = server
        self._burst = burst
        self._tally = tally
        self._generator = random.Random(f"faults {seed}")

    def run(self, end: threading.Event) -> None:
        """Kills, stops and floods."""
        while not end.wait(self._generator.expovariate(1 / _FAULT_S.value)):
            kind = self._generator.choice(["kill", "stop", "stop for long", "burst"])
            self._tally.count(kind)
            if kind == "kill":
                self._server.signal_scheduler(signal.SIGKILL)
            elif kind == "burst":
                self._burst()
            else:
                seconds = 2.0 if kind == "stop" else REQUEST_TIMEOUT_S + 3.0
                if self._server.signal_scheduler(signal.SIGSTOP):
                    end.wait(seconds)
                    self._server.signal_scheduler(signal.SIGCONT)


def soak(server: ServerProcess, requests: list[Any], tally: Tally) -> list[list[Usage]]:
    """Runs clients and faults; returns the processes' usage, once a second.

    Raises:
        RuntimeError: a client still waits after its patience.
    """
    end = threading.Event()
    clients = [
        Client(server.port, requests, f"{_SEED.value} {number}", tally)
        for number in range(_CLIENTS.value)
    ]
    generator = random.Random(f"bursts {_SEED.value}")

    def burst() -> None:
        flood = [
            Client(server.port, requests, str(generator.random()), tally) for _ in range(BURST)
        ]
        asked = [
            threading.Thread(target=one.ask, args=(generator.choice(requests), 0.0))
            for one in flood
        ]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()

    threads = [threading.Thread(target=client.run, args=(end,)) for client in clients]
    threads.append(
        threading.Thread(target=Faults(server, burst, tally, _SEED.value).run, args=(end,))
    )
    for thread in threads:
        thread.start()
    usage = []
    last = time.monotonic() + _MINUTES.value * 60
    while time.monotonic() < last and server.process.poll() is None:
        usage.append(server.usage())
        time.sleep(1)
    end.set()
    for thread in threads:
        thread.join(PATIENCE_S + 60)
    if any(thread.is_alive() for thread in threads):
        tally.fault("a request was never answered")
    return usage


def check_flat(front_end: list[Usage], idle: tuple[Usage, Usage], tally: Tally) -> dict[str, float]:
    """Notes faults if the front end has grown; returns its figures."""
    third = max(1, len(front_end) // 3)
    middle = statistics.median(
        one.resident_mib for one in front_end[third : 2 * third] or front_end
    )
    late = statistics.median(one.resident_mib for one in front_end[-third:])
    before, after = idle
    if late - middle > MEMORY_GROWTH_MIB:
        tally.fault(f"the front end's memory grew from {middle:.0f} to {late:.0f} MiB")
    if after.descriptors - before.descriptors > DESCRIPTORS:
        tally.fault(f"descriptors grew from {before.descriptors} to {after.descriptors}")
    return {
        "memory_in_the_second_third_mib": middle,
        "memory_in_the_last_third_mib": late,
        "descriptors_idle_before": before.descriptors,
        "descriptors_most": max(one.descriptors for one in front_end),
        "descriptors_idle_after": after.descriptors,
    }


def main(argv: list[str]) -> None:
    """Runs and reports."""
    callers_directory.enter(argv)
    tally = Tally()
    try:
        requests = known_requests(_MODEL.value, _REQUESTS.value, _SEED.value)
    except (ValueError, FetchError) as error:
        raise app.UsageError(str(error)) from error
    server = ServerProcess(
        f"--model={_MODEL.value}",
        f"--max-queue-requests={QUEUE}",
        f"--request-timeout={REQUEST_TIMEOUT_S}",
        "--max-batch-tokens=512",
    )
    warm = Client(server.port, requests, "warm", tally)
    for known in requests:
        warm.ask(known, 0.0)
    idle = server.usage()[0]
    usage = soak(server, requests, tally)
    recovered = wait_until(lambda: len(server.usage()) == 2 and _answers(server, requests), 120)
    if not recovered:
        tally.fault("the server did not recover")
    time.sleep(2)
    of_front_end = [now[0] for now in usage if now and now[0].pid == server.process.pid]
    figures: dict[str, Any] = check_flat(of_front_end, (idle, server.usage()[0]), tally)
    schedulers = [now[1] for now in usage if len(now) == 2]
    figures["scheduler_memory_most_mib"] = max(one.resident_mib for one in schedulers)
    figures["scheduler_descriptors_most"] = max(one.descriptors for one in schedulers)
    figures["scheduler_restarts"] = server.events.get("scheduler_restart", 0)
    status = server.stop()
    if status:
        tally.fault(f"the server ended with status {status}")
    for name, number in sorted({**tally.counts, **figures}.items()):
        print(f"{name}: {number:.0f}")
    write_json(_JSON.value, {"counts": tally.counts, "figures": figures, "faults": tally.faults})
    if server.troubles:
        print("the server's log also has:", *server.troubles, sep="\n  ", file=sys.stderr)
    if tally.faults:
        sys.exit("FAILED: " + "; ".join(tally.faults))
    print(f"PASSED: {tally.counts['scored']} answers, all with their serial scores")


def _answers(server: ServerProcess, requests: list[Any]) -> bool:
    tally = Tally()
    Client(server.port, requests, "after", tally).ask(requests[0], 0.0)
    return bool(tally.counts["scored"]) and not tally.faults


if __name__ == "__main__":
    app.run(main)
