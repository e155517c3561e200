"""Serves POST /v1/score and /v1/rerank over HTTP.

    isoprefill serve --model my-model.gguf --port 30000

docs/api.md has the API, docs/operations.md has more about the flags, and metrics. A flag that is not given may come
from the environment variable ISOPREFILL_FLAG, its name in capitals with _ for -, or from the file of --config.

Exit status: 0 told to stop, 1 failed (memory, the model's numbers), 2 wrong use (a flag, a model, an address), 130
interrupted before it served.
"""

import os

from isoprefill.cli.api_key import read_api_key
from isoprefill.cli.command_flags import CommandFlags
from isoprefill.cli.failures import CommandFailed, require_output
from isoprefill.cli.setting_sources import as_toml, read_sources
from isoprefill.server.settings import ServerSettings

FLAGS = CommandFlags()

_SETTINGS = FLAGS.settings(
    ServerSettings,
    {
        "EngineSettings": "Model",
        "ServerSettings": "Server",
        "BatchSettings": "Batches",
        "Limits": "Limits",
        "RerankSettings": "Rerank",
        "TraceSettings": "Traces",
    },
)
FLAGS.under("Server")
_API_KEY_FILE = FLAGS.text(
    "api-key-file",
    None,
    "File that holds the API key. Default: the environment variable ISOPREFILL_API_KEY, or no key if it is not set.",
    "FILE",
)
_CONFIG = FLAGS.text(
    "config",
    None,
    "TOML file with values of flags that the command line and the environment leave out.",
    "FILE",
)
_PRINT_CONFIG = FLAGS.switch(
    "print-config",
    "Print the value of every flag as such a file, and where it came from; serve nothing.",
)
_NOT_SETTINGS = ("config", "print-config")


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status. Raises an error if the settings cannot be served."""
    if arguments:
        raise ValueError(f"unexpected argument {arguments[0]!r}")
    known = [flag for flag in FLAGS if flag.name not in _NOT_SETTINGS]
    sources = read_sources(known, _CONFIG.value or os.environ.get("ISOPREFILL_CONFIG"), os.environ)
    settings = _SETTINGS(api_key=_api_key())
    if _PRINT_CONFIG.value:
        require_output()
        print(as_toml(known, sources), end="")
        return 0

    from isoprefill.server.launch import serve
    from isoprefill.server.supervisor import StartError

    try:
        serve(settings)
    except StartError as error:
        raise CommandFailed(str(error)) from error
    return 0


def _api_key() -> str | None:
    if _API_KEY_FILE.value:
        return read_api_key(_API_KEY_FILE.value)
    key = os.environ.get("ISOPREFILL_API_KEY")
    if key is None:
        return None
    if not key.strip():
        raise ValueError(
            "the API key is empty: ISOPREFILL_API_KEY is set but empty; unset it to run without a key"
        )
    return key.strip()
