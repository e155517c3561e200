"""Audits a /v1/score server: does an item's score depend on its neighbours?

    isoprefill audit --server-url http://127.0.0.1:30000 --output report.json --heat-map influence.png
    isoprefill audit --analyze first.json second.json

Exit status: 0 ISOLATED, 3 PARTIAL, 4 NO_ISOLATION, 5 INCONCLUSIVE, 6 ISOLATED but unlike the server compared with, 2 if
a server cannot be reached or does not do what the API says.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from isoprefill.api_key import read_api_key
from isoprefill.audit.analysis import side_by_side
from isoprefill.audit.client import ScoreClient, ServerError
from isoprefill.audit.conclusion import EXIT_SERVER_ERROR
from isoprefill.audit.json_report import to_json
from isoprefill.audit.markdown_report import to_markdown
from isoprefill.audit.run import AuditReport, ProgressCallback, run_audit
from isoprefill.audit.settings import AuditSettings
from isoprefill.models.pinned import FetchError

_SERVER_URL = flags.DEFINE_string("server-url", None, "The server, such as http://127.0.0.1:30000.")
_COMPARE_URL = flags.DEFINE_string(
    "compare-url", None, "Another server, to compare with item by item."
)
_COMPARE_TOLERANCE = flags.DEFINE_float(
    "compare-tolerance", 0.05, "Servers agree if their log scores differ by at most this."
)
_ANALYZE = flags.DEFINE_bool(
    "analyze", False, "Ask no server: show the stored results given as arguments side by side."
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the report to this file, as JSON.")
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the report to this file, as Markdown.")
_HEAT_MAP = flags.DEFINE_string(
    "heat-map", None, "Draw which item influences which to this file, as PNG."
)
_MODEL = flags.DEFINE_string("model", "default", "The model to ask the servers for.")
_LABEL_TOKEN_IDS = flags.DEFINE_list(
    "label-token-ids", [], "Score these labels: token ids with commas between them."
)
_LABELS = flags.DEFINE_multi_string(
    "labels", [], "A label as text, one token of --tokenizer; repeat for more."
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    None,
    "The servers' tokenizer, for --labels: a pinned model's name, a .gguf file, or a directory.",
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 5, "How often to measure the noise, and everything if there is any."
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 1e-3, "Differences of log scores up to this never count."
)
_MAX_ITEMS = flags.DEFINE_integer("max-items", 500, "Items of the longest list.")
_MAX_WORDS = flags.DEFINE_integer(
    "max-words", 3000, "Words of the longest query; halved until the server takes it."
)
_DELIMITER_TEXT = flags.DEFINE_multi_string(
    "delimiter-text",
    list(AuditSettings().delimiter_texts),
    "A text that may be the servers' delimiter, to be put into an item; repeat for more.",
)
_DELIMITER_TOKEN_ID = flags.DEFINE_integer(
    "delimiter-token-id", None, "The servers' delimiter, to be put into an item of token ids."
)
_SCALE = flags.DEFINE_enum(
    "scale", "auto", ["auto", "log", "probability"], "What the servers send."
)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 120.0, "Seconds for a request and all of its answer.", lower_bound=0.1
)
_API_KEY_FILE = flags.DEFINE_string(
    "api-key-file", None, "A file with the key that the servers want as a bearer token."
)


def main(argv: list[str]) -> None:
    """Runs the command. Bad input ends with one line on stderr and exit status 2."""
    try:
        # `bazel run` starts programs elsewhere and leaves the user's directory here; files are relative to it.
        os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
        if _ANALYZE.value:
            if len(argv) < 2:
                raise ValueError("--analyze needs the files of stored results as arguments")
            print(side_by_side([Path(name) for name in argv[1:]]), end="")
            return
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        report = _audit()
        _write(report)
    except (ServerError, ValueError, OSError, FetchError) as error:
        print(f"audit: {error}", file=sys.stderr)
        sys.exit(EXIT_SERVER_ERROR)
    sys.exit(report.exit_code)


def _audit() -> AuditReport:
    if _SERVER_URL.value is None:
        raise ValueError("give the server with --server-url")
    settings = AuditSettings(
        repeats=_REPEATS.value,
        tolerance=_TOLERANCE.value,
        max_items=_MAX_ITEMS.value,
        max_words=_MAX_WORDS.value,
        delimiter_texts=tuple(_DELIMITER_TEXT.value),
        delimiter_token_id=_DELIMITER_TOKEN_ID.value,
        compare_tolerance=_COMPARE_TOLERANCE.value,
    )
    labels = _label_token_ids()
    key = read_api_key(Path(_API_KEY_FILE.value)) if _API_KEY_FILE.value else None

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
        if not all(text.strip().isdecimal() for text in _LABEL_TOKEN_IDS.value):
            raise ValueError(
                f"--label-token-ids must be integers, got {','.join(_LABEL_TOKEN_IDS.value)!r}"
            )
        return [int(text) for text in _LABEL_TOKEN_IDS.value] or None
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
