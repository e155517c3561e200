"""Scores items against a query and prints them ranked.

Without --labels an item's score is log P(item | query). With labels it is the probability of each label after
query + item, and items are ranked by the first label. A classification model takes no labels: scores are the logits
of its classes, or with --softmax their probabilities, and items are ranked by the class that says that they are
relevant.
"""

import json
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
from absl import flags

from isoprefill.cli.inputs import read_items, read_text
from isoprefill.cli.setting_flags import define_flags
from isoprefill.modes import Delimiter, Isolation, Tokenization
from isoprefill.server.settings import EngineSettings

_QUERY = flags.DEFINE_string("query", None, "The query: text that every item is scored against.")
_QUERY_FILE = flags.DEFINE_string("query-file", None, "Read the query from this file.")
_ITEM = flags.DEFINE_multi_string(
    "item",
    [],
    "An item; repeat for more. Begin it with a space if it continues the query.",
)
_ITEMS_FILE = flags.DEFINE_string(
    "items-file",
    None,
    'Read items from this file: one per line; in a .jsonl file, {"item": …} per line.',
)
_LABELS = flags.DEFINE_multi_string(
    "labels", [], "Score P(label | query, item) for this label, one token of text; repeat for more."
)
_SOFTMAX = flags.DEFINE_bool(
    "softmax", False, "Normalise over the labels, or over a classification model's classes."
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", None, "With --softmax: divide the log-probabilities by this first."
)
_ITEM_FIRST = flags.DEFINE_bool("item-first", False, "Score item + query instead of query + item.")
_TOKENIZATION = flags.DEFINE_enum(
    "tokenization",
    "separate",
    get_args(Tokenization),
    "joint tokenises query + item as one text, so that a token may span both.",
)
_ISOLATION = flags.DEFINE_enum(
    "isolation",
    "isolated",
    get_args(Isolation),
    "causal lets items see the items before them, which contaminates their scores.",
)
_DELIMITER = flags.DEFINE_enum(
    "delimiter",
    "none",
    get_args(Delimiter),
    "Whether a delimiter token is placed between items, and which tokens see it (docs/design.md).",
)
_DELIMITER_ID = flags.DEFINE_integer("delimiter-token-id", None, "The delimiter's token id.")
flags.DEFINE_alias("delimiter-id", "delimiter-token-id")
_ENGINE = define_flags(EngineSettings, without={"warmup_tokens"})
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status. Raises an error on bad input."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if arguments:
        raise ValueError(
            f"unexpected argument {arguments[0]!r}: items are given with --item or --items-file"
        )
    report = _score()
    if _JSON.value:
        print(json.dumps(report))
    else:
        _print_table(report)
    return 0


def _score() -> dict[str, Any]:
    settings, query, items = _ENGINE(), _query(), _items()
    if _TEMPERATURE.value is not None and not _SOFTMAX.value:
        raise ValueError("--temperature needs --softmax")
    if _DELIMITER_ID.value is not None and _DELIMITER.value == "none":
        raise ValueError("--delimiter-token-id needs --delimiter hidden or prefix_first")

    # After the cheap checks: importing jax takes a second.
    from isoprefill.cli.progress import progress_bar
    from isoprefill.server.device import load_engine

    engine = load_engine(settings)
    classes = engine.model.config.classes
    if _SOFTMAX.value and not _LABELS.value and classes is None:
        raise ValueError("--softmax needs --labels, or a classification model")
    if _LABELS.value and classes is not None:
        raise ValueError(
            "--labels needs a language-model head, which this classification model has not: leave it out, and the "
            "scores are those of the model's classes"
        )
    options: dict[str, Any] = {
        "apply_softmax": _SOFTMAX.value,
        "temperature": _TEMPERATURE.value,
        "item_first": _ITEM_FIRST.value,
        "isolation": _ISOLATION.value,
        "delimiter": _DELIMITER.value,
        "delimiter_id": _DELIMITER_ID.value,
        "tokenization": _TOKENIZATION.value,
    }
    labels = [engine.label_id(label) for label in _LABELS.value]
    with progress_bar("items scored") as on_progress:
        result = engine.score(
            query,
            items,
            labels or None,
            algorithm=settings.algorithm,
            on_progress=on_progress,
            **options,
        )
    by_label = result.scores.ndim == 2
    ranks = np.empty(len(items), int)
    ranks[result.best_first()] = np.arange(1, len(items) + 1)
    results = [
        {
            "index": index,
            "item": item,
            "scores" if by_label else "score": result.scores[index].tolist(),
            "probability": float(probability),
            "rank": int(ranks[index]),
        }
        for index, (item, probability) in enumerate(
            zip(items, result.ranking_probabilities, strict=True)
        )
    ]
    columns: dict[str, Any] = {} if classes is None else {"classes": list(classes.names)}
    return {
        "model": result.model,
        **columns,
        "algorithm": result.algorithm,
        "isolation": result.isolation,
        "results": results,
        "usage": {
            "prompt_tokens": result.usage.prompt_tokens,
            "completion_tokens": result.usage.completion_tokens,
            "total_tokens": result.usage.total_tokens,
        },
    }


def _query() -> str:
    given, path = _QUERY.value, _QUERY_FILE.value
    if given is not None and path is None:
        query = given
    elif given is None and path is not None:
        query = read_text(Path(path))
    else:
        raise ValueError("give the query with exactly one of --query and --query-file")
    if not query:
        raise ValueError("the query is empty")
    return query


def _items() -> list[str]:
    items = [*_ITEM.value, *(read_items(Path(_ITEMS_FILE.value)) if _ITEMS_FILE.value else [])]
    if not items:
        raise ValueError("no items: give them with --item or --items-file")
    if "" in items:
        raise ValueError(f"item {items.index('') + 1} is empty")
    return items


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    results = sorted(report["results"], key=lambda result: result["rank"])
    # Text, not markup: items, labels and the model's name may hold square brackets.
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("item")
    if "scores" in results[0]:
        for name in report.get("classes", _LABELS.value):
            logit = "classes" in report and not _SOFTMAX.value
            table.add_column(Text(_one_line(name) if logit else f"P({name!r})"), justify="right")
    else:
        table.add_column("score", justify="right")
        table.add_column("probability", justify="right")
    for result in results:
        numbers = (
            [f"{score:.4g}" for score in result["scores"]]
            if "scores" in result
            else [f"{result['score']:.4f}", f"{result['probability']:.4g}"]
        )
        table.add_row(str(result["rank"]), Text(_one_line(result["item"])), *numbers)
    # Only a terminal has a width; elsewhere a row is a line, however long.
    console = Console() if sys.stdout.isatty() else Console(width=1_000_000)
    console.print(table)
    footer = (
        f"{report['model']}, {report['algorithm']}, {report['isolation']}, "
        f"{report['usage']['prompt_tokens']} tokens"
    )
    console.print(Text(footer, style="dim"))


def _one_line(item: str) -> str:
    """Returns the item with control characters escaped, so that it cannot break the table."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in item)
