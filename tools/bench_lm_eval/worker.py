"""One model of the harness on the task, in a process of its own; prints one line of JSON."""

import json
import pathlib
import sys
import time
from typing import Any


def run(model: str, arguments: dict[str, Any], folder: pathlib.Path, limit: int) -> dict[str, Any]:
    """Returns seconds of wall and of processors, the results, and each answer's log-likelihood and greediness."""
    import lm_eval.models
    from lm_eval.api.registry import get_model
    from lm_eval.tasks import TaskManager

    from bench_lm_eval.tasks import TASK

    if model == "isoprefill":
        import isoprefill.integrations.lm_eval.model  # noqa: F401
    made = get_model(model)(**arguments)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    task = {"model": made, "tasks": [TASK], "task_manager": manager, "bootstrap_iters": 0}
    if model == "isoprefill":
        lm_eval.simple_evaluate(**task, limit=2)  # compiles
        made._engine.clear_prefix_cache()
    wall, cpu = time.perf_counter(), time.process_time()
    found = lm_eval.simple_evaluate(**task, limit=limit, log_samples=True)
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "results": {k: v for k, v in found["results"][TASK].items() if k.startswith("acc")},
        "right": [doc["target"] for doc in found["samples"][TASK]],
        "answers": [
            [list(map(float, one)) for one in doc["filtered_resps"]]
            for doc in found["samples"][TASK]
        ],
        "tokens": [
            len(made.tok_encode(doc["arguments"][0][0])) for doc in found["samples"][TASK][:10]
        ],
    }


if __name__ == "__main__":
    _, model_name, model_arguments, task_folder, number = sys.argv
    report = run(model_name, json.loads(model_arguments), pathlib.Path(task_folder), int(number))
    print(json.dumps(report))
