"""A server that is measured."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Sequence

HERE = pathlib.Path(__file__).parent


class BenchedServer:
    """A server in processes of its own."""

    def __init__(self, *command: str) -> None:
        """Starts it and waits until it is ready."""
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        self._process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
        )
        self.port = 0
        event = {"event": "no output"}
        for line in self._process.stderr or ():
            event = json.loads(line) if line.startswith("{") else {"event": line.strip()}
            if event["event"] == "listening":
                self.port = int(event["url"].rpartition(":")[2])
            elif event["event"] == "ready":
                break
        else:
            raise RuntimeError(f"the server did not start: {event['event']}")
        threading.Thread(target=self._drop_log, daemon=True).start()

    def __enter__(self) -> "BenchedServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _drop_log(self) -> None:
        for _ in self._process.stderr or ():
            pass

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[1]) for line in lines if line.split()[0] == name)

    def cpu_seconds(self) -> float:
        """Returns how long the front end's process has computed."""
        tasks = pathlib.Path("/proc", str(self._process.pid), "task")
        spent = [int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()]
        return sum(spent) / 1e9

    def send(self, bodies: Sequence[str], times: Sequence[float]) -> list[tuple[float, int]]:
        """Sends requests at these times; returns the latency and status of each."""
        plan = {"port": self.port, "path": "/v1/score", "bodies": bodies, "times": times}
        done = subprocess.run(
            [sys.executable, str(HERE / "open_loop_client.py")],
            input=json.dumps(plan),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return [(latency, status) for latency, status in json.loads(done.stdout)]
