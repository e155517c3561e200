r"""Scores items against a query and prints them ranked.

    isoprefill score --query "The sky is" --item " blue" --item " green"
    isoprefill score --query-file query.txt --items-file items.jsonl \
      --labels " yes" --labels " no" --softmax

Without --labels an item's score is log P(item | query). With labels an item has the probability of each label after
query + item, and items are ranked by the first label. A classification model takes no labels: scores are the logits
of its classes, or with --softmax their probabilities, and items are ranked by the class that says that they are
relevant.

Exit status: 0 scored, 1 failed (memory, disk, the model's numbers), 2 wrong use (a flag, a file, an item, a model),
130 interrupted, 141 the program that read the output has ended.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args

from isoprefill.cli.command_flags import CommandFlags
from isoprefill.cli.failures import require_output
from isoprefill.cli.item_files import InputFormat, Item, RefusedItem, item_of, read_items
from isoprefill.cli.score_formats import (
    FORMATS,
    Columns,
    Format,
    csv_lines,
    json_lines,
    tsv_lines,
    write_lines,
)
from isoprefill.cli.score_rows import Order, Row, in_order
from isoprefill.cli.scoring_flags import define_scoring_flags
from isoprefill.cli.text_files import STDIN, read_text, shown
from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.modes import Delimiter, Isolation, Tokenization

if TYPE_CHECKING:
    from isoprefill.models.config.classes import Classes
    from isoprefill.request.labels import LabelSets
    from isoprefill.request.options import ScoreOptions
    from isoprefill.request.result import ScoreResult

FLAGS = CommandFlags()

FLAGS.under("Input")
_QUERY = FLAGS.text("query", None, "The query: text that every item is scored against.")
_QUERY_FILE = FLAGS.text(
    "query-file", None, "Read the query from this file; - is standard input.", "FILE"
)
_ITEM = FLAGS.texts(
    "item", [], "An item; repeat for more. Begin it with a space if it continues the query."
)
_ITEMS_FILE = FLAGS.text(
    "items-file",
    None,
    'Read items from this file: one per line, or {"item": …} per line; - is standard input.',
    "FILE",
)
_INPUT_FORMAT = FLAGS.choice(
    "input-format",
    "auto",
    get_args(InputFormat),
    "What --items-file holds: lines of text, JSON Lines, or one JSON list. auto: what its name ends in (.txt, .jsonl, "
    ".ndjson, .json), else JSON Lines if the first line is a JSON object.",
)
_SKIP_INVALID = FLAGS.switch(
    "skip-invalid",
    "Score the other items if some are empty, too long or not JSON; these are listed on stderr.",
)

FLAGS.under("Scoring")
_LABELS = FLAGS.texts(
    "labels", [], "Score P(label | query, item) for this label, a text; repeat for more."
)
_SCORING = define_scoring_flags(FLAGS)
_TOKENIZATION = FLAGS.choice(
    "tokenization",
    "separate",
    get_args(Tokenization),
    "joint tokenises query + item as one text, so that a token may span both.",
)
_ISOLATION = FLAGS.choice(
    "isolation",
    "isolated",
    get_args(Isolation),
    "causal lets items see the items before them, which contaminates their scores.",
)
_DELIMITER = FLAGS.choice(
    "delimiter",
    "none",
    get_args(Delimiter),
    "Whether a delimiter token is placed between items, and which tokens see it (docs/design.md).",
)
_DELIMITER_ID = FLAGS.integer("delimiter-token-id", None, "The delimiter's token id.", ge=0)
FLAGS.alias("delimiter-id", "delimiter-token-id")

FLAGS.under("Output")
_FORMAT = FLAGS.choice(
    "format", None, FORMATS, "What to print. Default: table on a terminal, else tsv."
)
_JSON = FLAGS.switch("json", "The same as --format json.")
_SORT = FLAGS.choice(
    "sort",
    None,
    get_args(Order),
    "score: the best first (the default; json lists them as they came). mean: by log-likelihood per token. input: as "
    "they came; tsv, csv and jsonl are then printed while scoring goes on, without ranks.",
)
_TOP = FLAGS.integer("top", None, "Print only so many of the best items.", ge=1)

_ENGINE = FLAGS.settings(EngineSettings, {"EngineSettings": "Model"})


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status. Raises an error on bad input."""
    require_output()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if arguments:
        raise ValueError(
            f"unexpected argument {arguments[0]!r}: items are given with --item or --items-file"
        )
    form, order = _output()
    settings, query, items = _ENGINE(), _query(), _items()
    if _SCORING.temperature.value is not None and not _SCORING.apply_softmax.value:
        raise ValueError("--temperature needs --softmax")
    if _DELIMITER_ID.value is not None and _DELIMITER.value == "none":
        raise ValueError("--delimiter-token-id needs --delimiter hidden or prefix_first")
    # One list of items that see each other is one request, whatever the order.
    streams = order == "input" and form not in ("table", "json") and _ISOLATION.value != "causal"

    # After the cheap checks: importing jax takes a second.
    from isoprefill.cli.progress import progress
    from isoprefill.cli.scoring import ScoringJob

    with progress("score", "items scored") as on_progress:
        engine = settings.load()
        classes = engine.model.config.classes
        _check_labels(classes, order)
        names = _score_names(classes)
        columns = Columns(items, names, ranked=not streams) if form in ("tsv", "csv") else None
        labels = [_argument(label) for label in _LABELS.value]
        named = {"labels": labels} if labels else {}
        if classes is not None:
            named = {"classes": list(classes.names)}
        options = _options(engine.preparer.labels(labels) if labels else None)
        on_refused = _report if _SKIP_INVALID.value else None
        job = ScoringJob(engine, query, options, settings.algorithm, on_progress, on_refused)
        if streams:
            for number, rows in enumerate(job.streamed(items)):
                write_lines(_lines(rows, form, columns or named, header=number == 0))
            return 0
        rows, result = job.ranked(items, order)
    rows = list(in_order(rows, order, _TOP.value))
    if form == "json":
        write_lines([_json(rows, named, result)])
    elif form == "table":
        write_lines(_table(rows, names, order, result))
    else:
        write_lines(_lines(rows, form, columns or named, header=True))
    return 0


def _output() -> tuple[Format, Order]:
    """Returns the format and the order of the output."""
    if _JSON.value and _FORMAT.value not in (None, "json"):
        raise ValueError(f"--json is --format json, but --format is {_FORMAT.value}")
    form: Format = "json" if _JSON.value else _FORMAT.value  # type: ignore[assignment] # absl has checked it
    form = form or ("table" if sys.stdout.isatty() else "tsv")
    order: Order | None = _SORT.value  # type: ignore[assignment] # the same
    if order == "mean" and _LABELS.value:
        raise ValueError("--sort mean is for likelihoods: it has no meaning with --labels")
    if order == "input" and _TOP.value is not None:
        raise ValueError("--top needs --sort score or mean: --sort input has no best items")
    if order is None:
        order = "input" if form == "json" and _TOP.value is None else "score"
    return form, order


def _options(labels: "LabelSets | None") -> "ScoreOptions":
    from isoprefill.request.options import ScoreOptions

    modes: dict[str, Any] = {
        "isolation": _ISOLATION.value,
        "delimiter": _DELIMITER.value,
        "tokenization": _TOKENIZATION.value,
    }
    return ScoreOptions(
        labels=labels,
        apply_softmax=_SCORING.apply_softmax.value,
        temperature=_SCORING.temperature.value,
        item_first=_SCORING.item_first.value,
        delimiter_id=_DELIMITER_ID.value,
        **modes,
    )


def _check_labels(classes: "Classes | None", order: Order) -> None:
    """Raises ValueError if the flags of labels do not fit a model with these classes."""
    if classes is None:
        if _SCORING.apply_softmax.value and not _LABELS.value:
            raise ValueError("--softmax needs --labels, or a classification model")
        return
    if _LABELS.value:
        raise ValueError(
            "--labels needs a language-model head, which this classification model has not: leave it out, and the "
            "scores are those of the model's classes"
        )
    if order == "mean":
        raise ValueError("--sort mean is for likelihoods: a classification model has none")


def _score_names(classes: "Classes | None") -> list[str]:
    """Returns what the scores of an item are called; nothing for likelihoods."""
    if classes is None:
        return [f"P('{label}')" for label in map(_argument, _LABELS.value)]
    return [f"P('{name}')" if _SCORING.apply_softmax.value else name for name in classes.names]


def _argument(text: str) -> str:
    """Returns an argument as UTF-8, which a locale such as C does not read it as."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


def _query() -> str:
    given, path = _QUERY.value, _QUERY_FILE.value
    if given is not None and path is None:
        query = _argument(given)
        if "\\n" in given:
            print(
                "score: note: --query holds the two characters \\n; a line end is written $'…\\n…' in bash, or in a "
                "--query-file",
                file=sys.stderr,
            )
    elif given is None and path is not None:
        if path == STDIN == _ITEMS_FILE.value:
            raise ValueError("only one of --query-file and --items-file can be standard input")
        query = read_text(path)
    else:
        raise ValueError("give the query with exactly one of --query and --query-file")
    if not query:
        raise ValueError("the query is empty")
    return query


def _items() -> list[Item]:
    """Returns the items that can be read; lists the others or, without --skip-invalid, refuses the first."""
    items, refused = [], 0
    for one in _given_items():
        if isinstance(one, Item):
            items.append(one)
        elif _SKIP_INVALID.value:
            refused += 1
            _report(one)
        else:
            hint = " (--skip-invalid scores the other items)" if _ITEMS_FILE.value else ""
            raise ValueError(f"{one}{hint}")
    if not items and refused:
        raise ValueError(f"none of {refused} items can be read")
    if not items:
        if _ITEMS_FILE.value:
            raise ValueError(f"{shown(_ITEMS_FILE.value)} contains no items")
        raise ValueError("no items: give them with --item or --items-file")
    return items


def _given_items() -> Iterator[Item | RefusedItem]:
    for index, text in enumerate(_ITEM.value):
        yield item_of(_argument(text), index, f"--item {index + 1}")
    if _ITEMS_FILE.value:
        input_format: InputFormat = _INPUT_FORMAT.value  # type: ignore[assignment] # absl has checked it
        yield from read_items(_ITEMS_FILE.value, input_format, len(_ITEM.value))


def _report(refused: RefusedItem) -> None:
    print(f"score: skipped {refused}", file=sys.stderr)


def _lines(
    rows: Iterable[Row], form: Format, columns: Columns | dict[str, list[str]], *, header: bool
) -> Iterator[str]:
    if isinstance(columns, dict):
        return json_lines(rows, columns)
    return (tsv_lines if form == "tsv" else csv_lines)(rows, columns, header)


def _table(rows: list[Row], names: list[str], order: Order, result: "ScoreResult") -> Iterator[str]:
    from isoprefill.cli.score_table import shortened, table_lines, terminal_width

    yield from table_lines(rows, names, order)
    tokens = result.usage.prompt_tokens
    yield shortened(
        f"{result.model}, {result.algorithm}, {result.isolation}, {tokens} tokens", terminal_width()
    )


def _json(rows: list[Row], named: dict[str, list[str]], result: "ScoreResult") -> str:
    report = {
        "model": result.model,
        **named,
        "algorithm": result.algorithm,
        "isolation": result.isolation,
        "results": [row.record(named) for row in rows],
        "usage": dataclasses.asdict(result.usage) | {"total_tokens": result.usage.total_tokens},
    }
    return json.dumps(report)
