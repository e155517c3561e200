"""Log lines on stderr, as text or as JSON objects. They name requests by id and never hold their content."""

import json
import logging
import sys
import time
import traceback
from typing import Any

from isoprefill.server.settings import LogFormat

logger = logging.getLogger("isoprefill.server")


def configure(log_format: LogFormat, process: str) -> None:
    """Makes every logger of this process write in one format.

    Args:
        log_format: "text" or "json".
        process: which of the server's processes this is; stands in every line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(log_format, process))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)


def event(name: str, level: int = logging.INFO, **fields: Any) -> None:
    """Logs an event with its fields."""
    if logger.isEnabledFor(level):
        # Not logger.log, which looks for the caller: that takes as long as all the rest.
        record = logging.LogRecord(logger.name, level, "", 0, name, None, None)
        record.fields = fields
        logger.handle(record)


def exception_fields(error: BaseException) -> dict[str, Any]:
    """What may be said of an exception: its kind and where it was raised.

    Not its message, which may quote what a client sent.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "exception": type(error).__name__,
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


_as_json = json.JSONEncoder(default=str).encode


class _Formatter(logging.Formatter):
    def __init__(self, log_format: LogFormat, process: str) -> None:
        super().__init__()
        self._json = log_format == "json"
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        when = f"{moment}.{int(record.msecs):03}Z"
        fields = getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:  # of a library
            fields = fields | exception_fields(record.exc_info[1])
        if self._json:
            line = {
                "time": when,
                "level": record.levelname.lower(),
                "process": self._process,
                "event": record.getMessage(),
            }
            return _as_json(line | fields)
        # JSON's quoting, so that no value can begin a line of its own.
        tail = "".join(f" {name}={_text(value)}" for name, value in fields.items())
        message = _text(record.getMessage()) if "\n" in record.getMessage() else record.getMessage()
        return f"{when} {record.levelname[0]} {self._process} {message}{tail}"


def _text(value: Any) -> str:
    plain = isinstance(value, str) and value.isprintable() and value and not set(value) & set(' "=')
    return str(value) if plain else _as_json(value)
