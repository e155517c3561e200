"""Settings of `serve` from flags, the environment and a file: which wins, and what is refused."""

import subprocess
import sys
import tomllib

import pytest
from absl import flags

from isoprefill.cli.setting_sources import as_toml, read_sources


@pytest.fixture
def values():
    return flags.FlagValues()


@pytest.fixture
def known(values):
    """Flags of every kind that `serve` has, after a command line that gives one of them."""
    flags.DEFINE_string("name", "none", "", flag_values=values)
    flags.DEFINE_string("path", None, "", flag_values=values)
    flags.DEFINE_integer("max-items", 10, "", flag_values=values)
    flags.DEFINE_float("wait", 0.5, "", flag_values=values)
    flags.DEFINE_bool("strict", False, "", flag_values=values)
    flags.DEFINE_enum("form", "text", ["text", "json"], "", flag_values=values)
    flags.DEFINE_list("sizes", ["1", "2"], "", flag_values=values)
    flags.DEFINE_multi_string("served", [], "", flag_values=values)
    values(["serve", "--max-items=1"])
    return [
        values[name]
        for name in ("name", "path", "max-items", "wait", "strict", "form", "sizes", "served")
    ]


def test_a_flag_wins_over_the_environment_and_that_over_the_file(values, known, tmp_path):
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
        "sizes": ["64", "256"],
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
        ("wait = 'long'", "wait: "),
        ("form = 'xml'", "form: "),
        ("name = {a = 1}", "name must be a text"),
        ("name = ", "is not TOML"),
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
    assert printed["warmup-tokens"] == ["8"]
    assert printed["rerank-preset"] == "auto"
    assert "secret" not in done.stdout
    file.write_text(done.stdout)
    monkeypatch.delenv("ISOPREFILL_PORT")
    again = subprocess.run(command, capture_output=True, text=True)
    assert tomllib.loads(again.stdout) == printed
    file.write_text("port = 70000")
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "port must be between" in refused.stderr
