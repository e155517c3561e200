"""Settings of `serve` from flags, the environment and a file: which wins, and what is refused."""

import os
import subprocess
import sys
import tomllib

import pytest

from isoprefill.cli import serve
from isoprefill.cli.command_flags import CommandFlags
from isoprefill.cli.setting_sources import as_toml, read_sources
from isoprefill.cli.variables import variable_notes, variable_of


@pytest.fixture
def command():
    """A command with flags of every kind that `serve` has, after a command line that gives one of them."""
    command = CommandFlags()
    command.text("name", "none", "")
    command.text("path", None, "")
    command.integer("max-items", 10, "")
    command.number("wait", 0.5, "", gt=0)
    command.switch("strict", "")
    command.choice("form", "text", ["text", "json"], "")
    command.integers("sizes", [1, 2], "")
    command.texts("served", [], "")
    command.parse(["serve", "--max-items=1"])
    return command


@pytest.fixture
def known(command):
    return list(command)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(known, tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text(
        'max-items = 3\nwait = 1\nstrict = true\nform = "json"\nsizes = [64, 256]\nserved = ["a", "b"]\n'
        'name = "file \\"é\\""\n'
    )
    environment = {"ISOPREFILL_MAX_ITEMS": "2", "ISOPREFILL_WAIT": "2.5", "ISOPREFILL_OTHER": "x"}
    sources = read_sources(known, str(file), environment)
    found = {flag.name: flag.value for flag in known}
    assert found == {
        "name": 'file "é"',
        "path": None,
        "max-items": 1,
        "wait": 2.5,
        "strict": True,
        "form": "json",
        "sizes": [64, 256],
        "served": ["a", "b"],
    }
    assert sources["max-items"] == "flag"
    assert sources["wait"] == "ISOPREFILL_WAIT"
    assert sources["form"] == str(file)
    assert sources["path"] == "default"
    printed = tomllib.loads(as_toml(known, sources))
    assert printed == {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max-itms = 3", "has the key 'max-itms', which is no flag: did you mean 'max-items'?"),
        ("[limits]\nmax-items = 3", "has the key 'limits', which is no flag"),
        ("wait = 'long'", "wait must be a number above 0, got 'long'"),
        ("wait = 0", "wait must be a number above 0, got '0'"),
        ("form = 'xml'", "form must be one of text, json, got 'xml'"),
        ("strict = 2", "strict must be true or false, got '2'"),
        ("sizes = [1, 'x']", "sizes must be integers, separated by commas, got '1,x'"),
        ("name = {a = 1}", "name must be a text"),
        ("name = ", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML: nested too deeply"),
        ("a = " + "9" * 5000, "has a number of too many digits"),
        ("#" * (1 << 20) + "\n", "has more than 1048576 bytes"),
        (None, "cannot be read"),
    ],
)
def test_what_a_file_cannot_mean_is_refused(known, tmp_path, text, reason):
    """A misspelt key that is ignored would leave a limit at its default."""
    file = tmp_path / "serve.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=r"serve\.toml") as refused:
        read_sources(known, str(file), {})
    assert reason in str(refused.value)


def test_a_variable_that_changes_nothing_is_pointed_out():
    """A misspelt limit, or a model that only serve reads, would silently be the default's."""
    flags = [flag.name for flag in serve.FLAGS if flag.name not in ("config", "print-config")]
    ours = {variable_of(flag): "1" for flag in flags} | {"ISOPREFILL_CONFIG": "a", "HOME": "/"}
    assert list(variable_notes(ours, "serve", flags)) == []
    assert list(variable_notes(ours, "score", ["query", "model"])) == [
        "ISOPREFILL_MODEL is for isoprefill serve; isoprefill score reads --model only"
    ]
    for command in ("serve", "score"):
        assert list(variable_notes({"ISOPREFILL_MAX_ITMS": "1"}, command, flags)) == [
            "ISOPREFILL_MAX_ITMS is no variable of isoprefill; did you mean ISOPREFILL_MAX_ITEMS?"
        ]


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("ISOPREFILL_THREADS", "many", "must be an integer between 1 and 4096, got 'many'"),
        ("ISOPREFILL_THREADS", "", "must be an integer between 1 and 4096, got ''"),
        ("ISOPREFILL_INSTRUCTIONS", "avx9", 'is "avx9"; it must be one of "portable", '),
        ("ISOPREFILL_SPLIT_FLOAT32", "x", 'is "x"; it must be "0" or "1"'),
    ],
)
def test_a_variable_of_every_command_is_checked_when_it_is_read(variable, value, allowed):
    """On every processor, or it would choose other sums than were meant, unseen."""
    code = "from isoprefill.host.threads import use_threads; import isoprefill_csrc as csrc; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code} csrc.best_instructions(); use_threads()"],
        env=os.environ | {variable: value},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1].startswith(f"ValueError: {variable} {allowed}")


def test_the_command_prints_what_is_in_effect(tmp_path, monkeypatch):
    """As a file that it reads; never the key."""
    file = tmp_path / "serve.toml"
    file.write_text('served-model-name = ["one", "two"]\nwarmup-tokens = [8]\nmax-wait-ms = 5\n')
    monkeypatch.setenv("ISOPREFILL_PORT", "1234")
    monkeypatch.setenv("ISOPREFILL_API_KEY", "secret")
    command = [sys.executable, "-m", "isoprefill", "serve", f"--config={file}", "--print-config"]
    done = subprocess.run([*command, "--max-items=7"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = tomllib.loads(done.stdout)
    assert (printed["port"], printed["max-items"], printed["max-wait-ms"]) == (1234, 7, 5.0)
    assert printed["served-model-name"] == ["one", "two"]
    assert printed["warmup-tokens"] == [8]
    assert printed["rerank-preset"] == "auto"
    assert "secret" not in done.stdout
    file.write_text(done.stdout)
    monkeypatch.delenv("ISOPREFILL_PORT")
    again = subprocess.run(command, capture_output=True, text=True)
    assert tomllib.loads(again.stdout) == printed
    file.write_text("port = 70000")
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "port must be an integer between 0 and 65535, got '70000'" in refused.stderr
