"""How a server starts, and what stops the start with its reason."""

import dataclasses
import os
import pathlib
import re
import signal
import sys

import httpx
import pytest

from api_answers import code_of
from command_line import status_of
from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.server import launch, protocol, scheduler
from isoprefill.server.settings import RerankSettings, ServerSettings
from isoprefill.server.supervisor import StartError
from running_server import SERVE, RunningServer

pytest_plugins = ["server_fixtures"]


def test_before_the_model_is_loaded(model_directory):
    """The port answers at once: alive, not ready, and 503 for what needs the model."""
    server = RunningServer(*SERVE, f"--model={model_directory}")
    try:
        scheduler = server.wait_for_event("scheduler_started")["pid"]
        os.kill(scheduler, signal.SIGSTOP)  # it cannot become ready while we look
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/ready").status_code == 503
        response = server.post("/v1/score", query="abc", items=["x"])
        assert code_of(response) == "model_not_loaded"
        assert int(response.headers["retry-after"]) >= 1
    finally:
        server.process.kill()  # and the scheduler, stopped or not, ends with it
        os.kill(scheduler, signal.SIGCONT)


BAD_FLAGS = {
    "no such model": (["--model=gpt-9"], "smollm2-135m"),
    "open to the world": (["--host=0.0.0.0"], "--allow-anonymous"),
    "a name is no loopback address": (["--host=example.org"], "--allow-anonymous"),
    "mode without a delimiter": (["--delimiter=hidden"], "needs a delimiter-token-id"),
    "delimiter without a mode": (["--delimiter-token-id=0"], "needs no delimiter-token-id"),
    "causal and serial": (["--isolation=causal", "--algorithm=serial"], "no meaning"),
    "causal and chunks": (["--isolation=causal", "--algorithm=packed_extend"], "no meaning"),
    "causal and a delimiter": (
        ["--isolation=causal", "--delimiter=hidden", "--delimiter-token-id=0"],
        "use delimiter 'none'",
    ),
    "warm-up of one token": (["--warmup-tokens=1"], "warmup-tokens must be integers of at least 2"),
    "warm-up of words": (["--warmup-tokens=64,many"], "warmup-tokens must be integers"),
    "port": (["--port=70000"], "--port must be an integer between 0 and 65535, got '70000'"),
    "template and preset": (["--rerank-template=a", "--rerank-preset=chat"], "not both"),
    "template without a query": (["--rerank-template={{ document }}"], "{{ query }} exactly once"),
    "template with a filter": (["--rerank-template={{ query|upper }}{{ document }}"], "by a filter"),
    "template cut off": (["--rerank-template={{ query"], "cannot be rendered"),
    "template with an escape": (["--rerank-template={{ query }}\\n{{ document }}"], "a backslash and an n"),
    "label and its id": (["--rerank-yes=a", "--rerank-yes-id=1"], "rerank-yes or rerank-yes-id"),
    "labels of nothing": (["--rerank-no=a", "--rerank-preset=query-likelihood"], "no meaning"),
    "same labels": (["--rerank-yes=a", "--rerank-no=a"], "must differ"),
    "key file": (["--api-key-file=/nonexistent"], "cannot read the API key"),
    "empty key": (["--api-key-file=/dev/null"], "the API key is empty: /dev/null contains only white space"),
    "prefix cache": (["--prefix-cache-bytes=-1"], "prefix-cache-bytes must be an integer of at least 0, got '-1'"),
    "item above request": (["--max-request-tokens=10"], "must not be above max-request-tokens"),
    "wait": (["--max-wait-ms=-1"], "max-wait-ms must be a number between"),
    "rate": (["--rate-limit=-1"], "rate-limit must be a number of at least 0"),
    "more connections than files": (["--max-connections=2000000000"], "may open"),
    "a collector without http": (
        ["--otel-endpoint=localhost:4318"],
        "otel-endpoint must be an http:// or https:// address",
    ),
    "a password for the collector": (
        ["--otel-endpoint=https://me:key@host/v1/traces"],
        "without a user and a password",
    ),
    "more than all traces": (["--otel-sample-ratio=2"], "otel-sample-ratio must be a number between 0"),
    "stray": (["extra"], "unexpected argument"),
    "not this machine": (["--host=192.0.2.1", "--allow-anonymous"], "cannot listen on 192.0.2.1"),
} | {
    f"{flag} 0": ([f"--{flag}=0"], f"{flag} must be a")  # "at least 1", "above 0"
    for flag in (
        "max-batch-tokens",
        "max-batch-requests",
        "max-body-bytes",
        "max-items",
        "max-item-tokens",
        "max-request-tokens",
        "max-labels",
        "max-queue-requests",
        "max-queue-tokens",
        "max-connections",
        "rate-burst",
        "request-timeout",
        "read-timeout",
        "write-timeout",
        "drain-timeout",
        "stall-timeout",
    )
}  # fmt: skip


def last_words(capsys, *arguments: str) -> str:
    """The last line on stderr of a start that is refused."""
    from isoprefill.cli import serve

    assert status_of(serve, *SERVE[4:], *arguments) == 2
    last: str = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("serve: ")
    return last


@pytest.mark.parametrize(("arguments", "reason"), BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
def test_bad_flags_stop_the_start_with_the_reason(model_directory, capsys, arguments, reason):
    assert reason in last_words(capsys, f"--model={model_directory}", *arguments)


def test_traces_without_opentelemetry_stop_the_start(model_directory, capsys, monkeypatch):
    """It is an extra; a server that was told to send traces must not serve without them."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "isoprefill.server.tracing", raising=False)
    refused = last_words(
        capsys, f"--model={model_directory}", "--otel-endpoint=http://localhost:4318/v1/traces"
    )
    assert "pip install 'isoprefill[otel]'" in refused


def test_an_empty_key_in_the_environment_is_named(model_directory, capsys, monkeypatch):
    monkeypatch.setenv("ISOPREFILL_API_KEY", "")
    refused = last_words(capsys, f"--model={model_directory}")
    assert "ISOPREFILL_API_KEY is set but empty" in refused


def test_what_only_the_scheduler_finds_out_stops_the_start_too(tmp_path, model_directory):
    """Weights that are missing: the reason comes from another process, as the only line."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((pathlib.Path(model_directory) / name).read_bytes())
    server = RunningServer(*SERVE, f"--model={tmp_path}")
    assert server.process.wait(120) == 2
    server.wait_for_event("log ended")
    assert server.log_text[-1].startswith("serve: ")
    assert "safetensors" in server.log_text[-1]
    assert not re.search("Fatal Python error|Traceback", "".join(server.log_text))


@pytest.mark.parametrize(
    ("settings", "warmup_tokens", "reason"),
    [
        ({}, (9999,), "at most the model's 512 positions"),
        ({"mesh": "tensor=3"}, (), "mesh tensor=3 must divide the model's"),
        ({"mesh": "3"}, (), "mesh must be like 'data=2,tensor=4', got '3'"),
    ],
)
def test_the_scheduler_says_why_it_cannot_start(model_directory, settings, warmup_tokens, reason):
    """It travels as the reason above does. In this process: a server of its own takes 5 s to import JAX."""
    from isoprefill.server.device import make_engine

    engine = EngineSettings(model=model_directory, **settings)
    refused = scheduler.started(make_engine, engine, warmup_tokens)
    assert isinstance(refused, protocol.NotStarted)
    assert reason in refused.reason
    assert refused.by_settings


def test_settings_that_do_not_go_with_the_model_stop_the_start(model_directory):
    """What shows only when the model is there: a delimiter beyond its vocabulary, labels that it has no token for."""
    program = pathlib.Path(__file__).parent.parent / "support" / "faulty_server.py"
    engine = EngineSettings(model=model_directory)
    settings = ServerSettings(engine=engine, warmup_tokens=(), port=0)
    unusable = [
        (
            {"delimiter": "hidden", "delimiter_token_id": 300},
            ValueError,
            "less than the model's vocabulary of 300, got 300",
        ),
        (
            {"rerank": RerankSettings(template="{{ document }}{{ query }}", yes_text="no one")},
            ValueError,
            "'no one'",
        ),
        ({"rerank": RerankSettings(preset="chat")}, ValueError, "no chat template"),
        (
            {"rerank": RerankSettings(preset="bge-gemma", yes_id=300)},
            ValueError,
            "vocabulary of 300, got 300",
        ),
        ({"rerank": RerankSettings(yes_id=3)}, ValueError, "reads no labels"),
    ]
    for change, kind, reason in unusable:
        with pytest.raises(kind, match=reason):
            launch.serve(dataclasses.replace(settings, **change), (sys.executable, str(program)))
    with pytest.raises(StartError, match="ended with status 7"):
        launch.serve(settings, (sys.executable, "-c", "raise SystemExit(7)"))
