"""The engine alone, in a process of its own: `small` requests without a server around them.

The program, with a model and a dtype as its arguments, reads lines of JSON, each a list of bodies for /v1/score, scores
one after another, and writes a line with the list of their latencies in seconds.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Literal

from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.request.labels import LabelSets
from isoprefill.request.options import ScoreOptions


class LoneEngine:
    """An engine in a process of its own, with the server's defaults."""

    def __init__(self, model: str, dtype: str) -> None:
        """Starts the process, which loads the model when it is first asked."""
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, __file__, model, dtype],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "LoneEngine":
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def latencies(self, bodies: Sequence[str]) -> list[float]:
        """Returns how long the engine took for each request, in seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(bodies)) + "\n")
        self._process.stdin.flush()
        latencies: list[float] = json.loads(self._process.stdout.readline())
        return latencies


def main(model: str, dtype: Literal["float32", "bfloat16"]) -> None:
    """Answers until standard input closes."""
    engine = EngineSettings(model=model, dtype=dtype).load()

    def latency(body: str) -> float:
        asked = json.loads(body)
        options = ScoreOptions(
            labels=LabelSets.parse(asked["label_token_ids"]), apply_softmax=asked["apply_softmax"]
        )
        request = engine.preparer.request(asked["query"], asked["items"], options)
        began = time.perf_counter()
        engine.score_batch([request])
        took = time.perf_counter() - began
        time.sleep(2 * took)  # as a server that waits for the next request
        return took

    for line in sys.stdin:
        print(json.dumps([latency(body) for body in json.loads(line)]), flush=True)


if __name__ == "__main__":
    _, model_name, weights_dtype = sys.argv
    main(model_name, weights_dtype)  # type: ignore[arg-type]
