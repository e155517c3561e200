"""Audits a /v1/score server: does an item's score depend on its neighbours?

    isoprefill audit --server-url http://127.0.0.1:30000 --output report.json
    isoprefill audit --analyze first.json second.json

Exit status: 0 ISOLATED, 3 PARTIAL, 4 NO_ISOLATION, 5 INCONCLUSIVE, 6 ISOLATED but with other scores than the
--compare-url server, 2 if a server cannot be reached or does not follow the API, 1 if it is ISOLATED but the report
could not be written, 130 interrupted.
"""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from isoprefill.audit.analysis import side_by_side_markdown
from isoprefill.audit.client import ScoreClient, ServerError
from isoprefill.audit.json_report import to_json
from isoprefill.audit.markdown_report import to_markdown
from isoprefill.audit.run import AuditReport, ProgressCallback, run_audit
from isoprefill.audit.settings import AuditSettings
from isoprefill.cli.api_key import read_api_key
from isoprefill.cli.command_flags import CommandFlags
from isoprefill.cli.failures import FAILED, one_line, require_output

FLAGS = CommandFlags()

FLAGS.under("The server")
_SERVER_URL = FLAGS.text(
    "server-url", None, "The server, such as http://127.0.0.1:30000.", "ADDRESS"
)
_COMPARE_URL = FLAGS.text(
    "compare-url", None, "Another server, to compare item by item.", "ADDRESS"
)
_API_KEY_FILE = FLAGS.text(
    "api-key-file", None, "File that holds the API key, sent as a bearer token.", "FILE"
)
_MODEL = FLAGS.text("model", "default", "Model name to send in requests.", "NAME")
_TIMEOUT = FLAGS.number(
    "timeout",
    120.0,
    "Seconds to wait for the complete answer to a request, pauses that the server asks for included.",
    ge=0.1,
    le=86_400,
)

FLAGS.under("What is asked")
_LABEL_TOKEN_IDS = FLAGS.integers(
    "label-token-ids", [], "Labels to score, as token ids separated by commas.", ge=0
)
_LABELS = FLAGS.texts(
    "labels", [], "Label to score, as text: one token of --tokenizer; repeat for more."
)
_TOKENIZER = FLAGS.text(
    "tokenizer",
    None,
    "The servers' tokenizer, for --labels: a pinned model's name, a .gguf file, or a directory.",
)
_SCALE = FLAGS.choice(
    "scale",
    "auto",
    ["auto", "log", "probability", "logit"],
    "Scale of the scores that the servers send.",
)
_SETTINGS = FLAGS.settings(AuditSettings)

FLAGS.under("The report")
_OUTPUT = FLAGS.text("output", None, "Write the report to this file, as JSON.", "FILE")
_MARKDOWN = FLAGS.text("markdown", None, "Write the report to this file, as Markdown.", "FILE")
_HEAT_MAP = FLAGS.text(
    "heat-map", None, "Draw which items influence which others to this file, as PNG.", "FILE"
)
_ANALYZE = FLAGS.switch(
    "analyze", "Contact no server; show the stored results given as arguments, side by side."
)


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status. Raises an error on bad input."""
    if _ANALYZE.value:
        if not arguments:
            raise ValueError("--analyze needs the files of stored results as arguments")
        require_output()
        _print_side_by_side([Path(name) for name in arguments])
        return 0
    if arguments:
        raise ValueError(f"unexpected argument {arguments[0]!r}")
    _check_files()
    try:
        report = _audit()
    except ServerError as error:
        raise ValueError(str(error)) from error
    problems = list(_written(report))
    for problem in problems:
        print(f"audit: {report.conclusion.verdict}, but {one_line(problem)}", file=sys.stderr)
    return report.exit_code or (FAILED if problems else 0)


def _audit() -> AuditReport:
    if _SERVER_URL.value is None:
        raise ValueError("give the server with --server-url")
    settings = _SETTINGS()
    labels = _label_token_ids()
    key = read_api_key(_API_KEY_FILE.value) if _API_KEY_FILE.value else None

    def client(url: str) -> contextlib.closing[ScoreClient]:
        scale = None if _SCALE.value == "auto" else _SCALE.value
        return contextlib.closing(
            ScoreClient(
                url,
                model=_MODEL.value,
                label_token_ids=labels,
                api_key=key,
                timeout=_TIMEOUT.value,
                scale=scale,  # type: ignore[arg-type] # absl has checked it
            )
        )

    with contextlib.ExitStack() as stack:
        first = stack.enter_context(client(_SERVER_URL.value))
        other = stack.enter_context(client(_COMPARE_URL.value)) if _COMPARE_URL.value else None
        on_progress = stack.enter_context(_progress_bar())
        return run_audit(first, settings, compare_to=other, on_progress=on_progress)


def _label_token_ids() -> list[int] | None:
    if not _LABELS.value:
        return _LABEL_TOKEN_IDS.value or None
    if _LABEL_TOKEN_IDS.value:
        raise ValueError("give labels with one of --labels and --label-token-ids, not both")
    if _TOKENIZER.value is None:
        raise ValueError("--labels needs --tokenizer")
    from isoprefill.models.sources.source import load_tokenizer

    tokenizer = load_tokenizer(_TOKENIZER.value)
    encoded = {label: tokenizer.encode(label, continues=True) for label in _LABELS.value}
    for label, ids in encoded.items():
        if len(ids) != 1:
            raise ValueError(f"label {label!r} must be a single token, but is {len(ids)}")
    return [ids[0] for ids in encoded.values()]


def _files() -> dict[str, Path]:
    """Returns the files to write, by their flags."""
    given = (_OUTPUT, _MARKDOWN, _HEAT_MAP)
    return {flag.name: Path(flag.value) for flag in given if flag.value}


def _check_files() -> None:
    """Raises ValueError if a file cannot be written: an audit takes minutes, and must not be lost for that."""
    files = _files()
    if len(set(map(os.path.realpath, files.values()))) < len(files):
        raise ValueError("--output, --markdown and --heat-map must name different files")
    for name, path in files.items():
        target = os.path.realpath(path)  # not a link to it, which is the user's
        is_new = not os.path.exists(target)
        try:
            # A pipe that nobody reads is an error, not something to wait for.
            os.close(os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666))
            if is_new:
                os.unlink(target)
        except OSError as error:
            raise ValueError(f"--{name}: cannot write {path}: {error.strerror}") from error


def _written(report: AuditReport) -> Iterator[str]:
    """Prints the report and writes the files; yields what of that could not be done, and why."""
    for name, write in (("standard output", _print), *_writers()):
        try:
            write(report)
        except (OSError, ValueError) as error:
            yield f"the report could not be written to {name}: {getattr(error, 'strerror', None) or error}"


def _print(report: AuditReport) -> None:
    if sys.stdout is None:
        raise ValueError("it is closed")
    if sys.stdout.isatty():
        from rich.console import Console

        from isoprefill.audit.terminal_report import print_report

        print_report(report, Console())
    else:
        print(to_markdown(report), end="")
    sys.stdout.flush()


def _print_side_by_side(paths: list[Path]) -> None:
    if not sys.stdout.isatty():
        print(side_by_side_markdown(paths), end="")
        return
    from rich.console import Console

    from isoprefill.audit.terminal_report import print_side_by_side

    print_side_by_side(paths, Console())


def _writers() -> Iterator[tuple[str, Callable[[AuditReport], None]]]:
    kinds = {"output": _write_json, "markdown": _write_markdown, "heat-map": _draw}
    for name, path in _files().items():
        yield str(path), functools.partial(kinds[name], path)


def _write_json(path: Path, report: AuditReport) -> None:
    path.write_text(json.dumps(to_json(report), indent=2, allow_nan=False) + "\n")


def _write_markdown(path: Path, report: AuditReport) -> None:
    path.write_text(to_markdown(report), encoding="utf-8", errors="backslashreplace")


def _draw(path: Path, report: AuditReport) -> None:
    # matplotlib is slow to load, and talks on stderr where it cannot write a cache.
    from isoprefill.audit.heat_map import NothingToDrawError, draw_heat_map

    try:
        draw_heat_map(report, path)
    except NothingToDrawError as error:
        print(f"audit: no heat map: {error}", file=sys.stderr)


@contextlib.contextmanager
def _progress_bar() -> Iterator[ProgressCallback]:
    """Yields a callback that shows which probe runs, if stderr is a terminal."""
    if sys.stderr is None:
        yield lambda done, total, name: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("audit", total=None)
        yield lambda done, total, name: bar.update(
            task, completed=done, total=total, description=name.replace("_", " ")
        )
