"""Audits a /v1/score server: does an item's score depend on its neighbours?

    isoprefill audit --server-url http://127.0.0.1:30000 --output report.json --heat-map influence.png
    isoprefill audit --analyze first.json second.json

Exit status: 0 ISOLATED, 3 PARTIAL, 4 NO_ISOLATION, 5 INCONCLUSIVE, 6 ISOLATED but with other scores than the
--compare-url server, 2 if a server cannot be reached or does not follow the API.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from isoprefill.audit.analysis import side_by_side
from isoprefill.audit.client import ScoreClient, ServerError
from isoprefill.audit.json_report import to_json
from isoprefill.audit.markdown_report import to_markdown
from isoprefill.audit.run import AuditReport, ProgressCallback, run_audit
from isoprefill.audit.settings import AuditSettings
from isoprefill.cli.api_key import read_api_key
from isoprefill.cli.setting_flags import define_flags, integers

_SETTINGS = define_flags(AuditSettings)
_SERVER_URL = flags.DEFINE_string("server-url", None, "The server, such as http://127.0.0.1:30000.")
_COMPARE_URL = flags.DEFINE_string("compare-url", None, "Another server, to compare item by item.")
_ANALYZE = flags.DEFINE_bool(
    "analyze", False, "Contact no server; show the stored results given as arguments, side by side."
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the report to this file, as JSON.")
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the report to this file, as Markdown.")
_HEAT_MAP = flags.DEFINE_string(
    "heat-map", None, "Draw which items influence which others to this file, as PNG."
)
_MODEL = flags.DEFINE_string("model", "default", "Model name to send in requests.")
_LABEL_TOKEN_IDS = flags.DEFINE_list(
    "label-token-ids", [], "Labels to score, as token ids separated by commas."
)
_LABELS = flags.DEFINE_multi_string(
    "labels", [], "Label to score, as text: one token of --tokenizer; repeat for more."
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    None,
    "The servers' tokenizer, for --labels: a pinned model's name, a .gguf file, or a directory.",
)
_SCALE = flags.DEFINE_enum(
    "scale", "auto", ["auto", "log", "probability"], "Scale of the scores that the servers send."
)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 120.0, "Seconds to wait for the complete answer to a request.", lower_bound=0.1
)
_API_KEY_FILE = flags.DEFINE_string(
    "api-key-file", None, "File that holds the API key, sent as a bearer token."
)


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status. Raises an error on bad input."""
    if _ANALYZE.value:
        if not arguments:
            raise ValueError("--analyze needs the files of stored results as arguments")
        print(side_by_side([Path(name) for name in arguments]), end="")
        return 0
    if arguments:
        raise ValueError(f"unexpected argument {arguments[0]!r}")
    try:
        report = _audit()
    except ServerError as error:
        raise ValueError(str(error)) from error
    _write(report)
    return report.exit_code


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
        return list(integers(_LABEL_TOKEN_IDS)) or None
    if _LABEL_TOKEN_IDS.value:
        raise ValueError("give labels with one of --labels and --label-token-ids, not both")
    if _TOKENIZER.value is None:
        raise ValueError("--labels needs --tokenizer")
    from isoprefill.models.source import load_tokenizer

    tokenizer = load_tokenizer(_TOKENIZER.value)
    encoded = {label: tokenizer.encode(label) for label in _LABELS.value}
    for label, ids in encoded.items():
        if len(ids) != 1:
            raise ValueError(f"label {label!r} must be a single token, but is {len(ids)}")
    return [ids[0] for ids in encoded.values()]


def _write(report: AuditReport) -> None:
    markdown = to_markdown(report)
    print(markdown, end="")
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(
            json.dumps(to_json(report), indent=2, allow_nan=False) + "\n"
        )
    if _MARKDOWN.value:
        Path(_MARKDOWN.value).write_text(markdown)
    if _HEAT_MAP.value:
        # matplotlib is slow to load, and talks on stderr where it cannot write a cache.
        from isoprefill.audit.heat_map import NothingToDrawError, draw_heat_map

        try:
            draw_heat_map(report, Path(_HEAT_MAP.value))
        except NothingToDrawError as error:
            print(f"audit: no heat map: {error}", file=sys.stderr)


@contextlib.contextmanager
def _progress_bar() -> Iterator[ProgressCallback]:
    """Yields a callback that shows which probe runs, if stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("audit", total=None)
        yield lambda done, total, name: bar.update(
            task, completed=done, total=total, description=name.replace("_", " ")
        )
