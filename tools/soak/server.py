"""The server under test, in processes of its own: its log, its memory and its descriptors."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple


class Usage(NamedTuple):
    """Of one process at one time."""

    pid: int
    resident_mib: float
    descriptors: int


class ServerProcess:
    """`isoprefill serve`, started with flags, until `stop`."""

    def __init__(self, *flags: str) -> None:
        """Starts it and waits until it is ready.

        Raises:
            RuntimeError: it did not start; has its last words.
        """
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        command = [sys.executable, "-m", "isoprefill", "serve", "--port=0", "--log-format=json"]
        self.process = subprocess.Popen(
            [*command, *flags],
            env=os.environ | {"PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = 0
        self.scheduler_pid = 0
        self.events: dict[str, int] = {}
        self.troubles: list[str] = []  # the last lines that are not of level "info"
        self._last_words = ""
        self._ready = threading.Event()
        threading.Thread(target=self._read_log, daemon=True).start()
        self._ready.wait()
        if not self.port:
            raise RuntimeError(f"the server did not start: {self._last_words}")

    def _read_log(self) -> None:
        for line in self.process.stderr or ():
            self._last_words = line.strip()
            event = json.loads(line) if line.startswith("{") else {"event": "text"}
            name = event["event"]
            if event.get("level") != "info":
                self.troubles = [*self.troubles, self._last_words][-50:]
            self.events[name] = self.events.get(name, 0) + 1
            if name == "listening":
                self.port = int(event["url"].rpartition(":")[2])
            elif name == "scheduler_started":
                self.scheduler_pid = event["pid"]
            elif name == "ready":
                self._ready.set()
        self._ready.set()

    def signal_scheduler(self, number: signal.Signals) -> bool:
        """Sends a signal to the scheduler that runs now; whether there was one."""
        try:
            os.kill(self.scheduler_pid, number)
        except ProcessLookupError:
            return False
        return True

    def usage(self) -> list[Usage]:
        """Returns what the front end and the scheduler take now; none of a process that is gone."""
        found = []
        for pid in (self.process.pid, self.scheduler_pid):
            folder = pathlib.Path("/proc", str(pid))
            try:
                pages = int((folder / "statm").read_text().split()[1])
                number = len(list((folder / "fd").iterdir()))
            except OSError:
                continue
            found.append(Usage(pid, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, number))
        return found

    def stop(self) -> int:
        """Asks it to end; its exit status."""
        self.signal_scheduler(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def wait_until(condition: object, seconds: float) -> bool:
    """Waits until a callable says so, at most so long; whether it did."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
