"""Scores the rows of Parquet or JSON Lines offline with Ray, and continues where an earlier run ended.

    isoprefill batch --input PATH… --output DIR

A row is a query and an item, or with --items-column a query and a list of items. The output is Parquet: the columns of
the input, and score (or one column for each label or class), num_tokens and error. The same command again continues a
job, whatever ended it. docs/batch.md has the schema. Needs Ray: pip install 'isoprefill[batch]'.

Exit status: 0 finished, rows with errors included; 1 failed (memory, disk, Ray, the model's numbers); 2 wrong use (a
flag, a file, a column, a model); 130 interrupted.
"""

import dataclasses
import importlib.util
import json
import sys
from typing import Any, get_args

from isoprefill.batch.columns import InputColumns
from isoprefill.batch.ray_session import RaySettings, parse_resources
from isoprefill.batch.scoring_settings import ScoringSettings
from isoprefill.cli.batch_progress import batch_progress, summary_lines
from isoprefill.cli.command_flags import CommandFlags
from isoprefill.cli.failures import CommandFailed, require_output
from isoprefill.cli.scoring_flags import define_scoring_flags
from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.server.settings import LogFormat

FLAGS = CommandFlags()

FLAGS.under("Input and output")
_INPUT = FLAGS.texts(
    "input",
    [],
    "A directory, or a file that ends in .parquet, .pq, .jsonl, .ndjson, .jsonl.gz or .ndjson.gz, here or on a file "
    "system that pyarrow opens (s3://, gs://, hdfs://); repeat for more. Arguments that are not flags are inputs too.",
    "PATH",
)
_OUTPUT = FLAGS.text(
    "output", None, "The directory to write to: a new or empty one, or that of the same job.", "DIR"
)
_QUERY_COLUMN = FLAGS.text("query-column", "query", "Column of the queries.", "NAME")
_ITEM_COLUMN = FLAGS.text("item-column", None, "Column of the items. Default: item.", "NAME")
_ITEMS_COLUMN = FLAGS.text(
    "items-column", None, "Column of lists of items, instead of --item-column.", "NAME"
)

FLAGS.under("Scoring")
_LABELS = FLAGS.texts("labels", [], "Score P(label | query, item) for this label; repeat for more.")
_LABEL_COLUMN = FLAGS.text(
    "label-column",
    None,
    "Column of the label of each row, or of its list of labels, instead of --labels.",
    "NAME",
)
_SCORING = define_scoring_flags(FLAGS)
_DEDUPLICATE = FLAGS.switch(
    "deduplicate", "Score equal items of a query once; each of their rows gets the score."
)
_ENGINE = FLAGS.settings(EngineSettings, {"EngineSettings": "Model"})

FLAGS.under("The job")
_REPLICAS = FLAGS.integer("replicas", 1, "How many engines score side by side.", ge=1, le=10_000)
_RESOURCES = FLAGS.text(
    "replica-resources",
    "CPU=1",
    "What a replica takes of its node's resources in Ray, such as CPU=8,TPU=4.",
    "NAME=N,…",
)
_ADDRESS = FLAGS.text(
    "ray-address",
    None,
    "A running Ray cluster to join: HOST:PORT, or auto for one on this machine. Default: start Ray here.",
    "ADDRESS",
)
_BLOCK_ITEMS = FLAGS.integer(
    "block-items",
    None,
    "Most items in a file of the output, the unit of progress. Default: 1% of all items, divided among the replicas.",
    ge=1,
)
_LOG_FORMAT = FLAGS.choice(
    "log-format", "text", get_args(LogFormat), "Format of the progress and the summary."
)


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status. Raises an error on bad input."""
    require_output()
    request = _request(arguments)
    absent = [name for name in ("ray", "pyarrow") if importlib.util.find_spec(name) is None]
    if absent:
        raise CommandFailed(f"{absent[0]} is not installed: pip install 'isoprefill[batch]'")

    # After the cheap checks: importing pyarrow takes a second.
    from isoprefill.batch.job import run_job
    from isoprefill.batch.job_request import JobRequest
    from isoprefill.batch.ray_session import RayError

    as_json = _LOG_FORMAT.value == "json"
    try:
        with batch_progress(as_json) as on_progress:
            summary = run_job(JobRequest(**request), on_progress)
    except RayError as error:
        raise CommandFailed(str(error)) from error
    except Exception as error:
        if type(error).__module__.startswith("ray."):
            raise CommandFailed(f"Ray: {error}") from error
        raise
    if as_json:
        print(json.dumps({"event": "summary"} | summary.as_json()))
    else:
        print("\n".join(summary_lines(summary)))
    sys.stdout.flush()
    return 0


def _request(arguments: list[str]) -> dict[str, Any]:
    """Returns the fields of a `JobRequest`."""
    inputs = (*_INPUT.value, *arguments)
    if not inputs:
        raise ValueError("give the input with --input")
    if not _OUTPUT.value:
        raise ValueError("give a directory with --output")
    engine = _ENGINE()
    item = _ITEM_COLUMN.value
    if item is None and _ITEMS_COLUMN.value is None:
        item = "item"
    return {
        "inputs": inputs,
        "output": _OUTPUT.value,
        "columns": InputColumns(
            query=_QUERY_COLUMN.value,
            item=item,
            items=_ITEMS_COLUMN.value,
            label=_LABEL_COLUMN.value,
        ),
        "scoring": ScoringSettings(
            **dataclasses.asdict(engine),
            labels=tuple(_LABELS.value),
            softmax=_SCORING.apply_softmax.value,
            temperature=_SCORING.temperature.value,
            item_first=_SCORING.item_first.value,
            deduplicate=_DEDUPLICATE.value,
        ),
        "ray": RaySettings(
            address=_ADDRESS.value,
            replicas=_REPLICAS.value,
            resources=parse_resources(_RESOURCES.value),
        ),
        "block_items": _BLOCK_ITEMS.value,
    }
