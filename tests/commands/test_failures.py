"""Whatever goes wrong, a command line ends with one line that says why, and with a status that the docs list."""

import errno
import importlib
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from command_line import run
from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.cli import failures, score
from isoprefill.cli.entry import INTERRUPTED
from isoprefill.cli.failures import FAILED, NOBODY_READS, WRONG_USE, described, guarded
from isoprefill.execution import memory
from isoprefill.execution.engine import ScoringEngine
from isoprefill.host import memory as host_memory
from isoprefill.models.sources import pinned
from isoprefill.models.weights import assembly
from small_models import random_model

ROOT = Path(__file__).parents[2]
ITEM = ["--query=q", "--item=a"]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = random_model("llama", num_hidden_layers=2, hidden_size=32, intermediate_size=32)
    return save_directory(model, tmp_path_factory.mktemp("model"))


def assert_one_line(done, status: int, *parts: str) -> None:
    """One line on stderr, with these parts, and nothing on stdout."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.status == status, done.stderr
    assert done.stdout == ""
    for part in parts:
        assert part in lines[0]


def edited_config(**changes):
    def edit(directory):
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def written(name, content):
    return lambda directory: (directory / name).write_bytes(content)


def cut(directory):
    path = directory / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def edited_weights(tensor, value: bytes = b"", **changes):
    """Changes a tensor's entry in the header, or its first bytes."""

    def edit(directory):
        path = directory / WEIGHTS
        content = path.read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        begin = header[tensor]["data_offsets"][0]
        header[tensor] |= changes
        data = bytearray(content[8 + size :])
        data[begin : begin + len(value)] = value
        new = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(new)) + new + data)

    return edit


UP = "model.layers.1.mlp.up_proj.weight"
NAN, INFINITY = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
DAMAGED = {
    "no configuration": (lambda directory: (directory / "config.json").unlink(), WRONG_USE, "config.json"),
    "configuration of nothing": (written("config.json", b""), WRONG_USE, "config.json"),
    "configuration that is a list": (written("config.json", b"[]"), WRONG_USE, "config.json"),
    "deep configuration": (written("config.json", b"[" * 100_000), WRONG_USE, "nested too deeply"),
    "a text for a number": (edited_config(hidden_size="x"), WRONG_USE, "hidden_size"),
    "a text for a frequency": (edited_config(rope_theta="x", rope_parameters={"rope_theta": "x"}), WRONG_USE, ""),
    "no layers": (edited_config(num_hidden_layers=0), WRONG_USE, ""),
    "too many layers": (edited_config(num_hidden_layers=10**9), WRONG_USE, "num_hidden_layers"),
    "another family": (edited_config(model_type="mamba"), WRONG_USE, "mamba"),
    "no weights": (lambda directory: (directory / WEIGHTS).unlink(), WRONG_USE, WEIGHTS),
    "weights of nothing": (written(WEIGHTS, b""), WRONG_USE, WEIGHTS),
    "weights that are none": (written(WEIGHTS, b"\xff" * 1000), WRONG_USE, WEIGHTS),
    "weights cut off": (cut, WRONG_USE, WEIGHTS),
    "a tensor of another shape": (edited_weights(UP, shape=[64, 16]), WRONG_USE, UP),
    "a tensor of integers": (edited_weights(UP, dtype="I32"), WRONG_USE, ""),
    "float8": (edited_weights(UP, dtype="F8_E4M3", shape=[64, 64]), WRONG_USE, ""),
    "an unknown dtype": (edited_weights(UP, dtype="F3"), WRONG_USE, ""),
    "NaN": (edited_weights(UP, NAN), WRONG_USE, UP),
    "infinity": (edited_weights("model.embed_tokens.weight", INFINITY * 32 * 300), WRONG_USE, "embed_tokens"),
    "no tokenizer": (lambda directory: (directory / "tokenizer.json").unlink(), WRONG_USE, "tokenizer.json"),
    "tokenizer of nothing": (written("tokenizer.json", b"{}"), WRONG_USE, "tokenizer.json"),
    "a directory in a file's place": (
        lambda directory: ((directory / "tokenizer.json").unlink(), (directory / "tokenizer.json").mkdir()),
        WRONG_USE,
        "tokenizer.json",
    ),
    "an index that names nothing": (
        written("model.safetensors.index.json", b'{"weight_map": {"a": "b"}}'), WRONG_USE, "b"
    ),
    "an index of numbers": (written("model.safetensors.index.json", b'{"weight_map": {"a": 1}}'), WRONG_USE, ""),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "status", "part"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_models(model, tmp_path, damage, status, part):
    """A model that was copied in part is what people meet first."""
    directory = shutil.copytree(model, tmp_path / "copy")
    damage(directory)
    done = run(score, f"--model={directory}", *ITEM)
    assert_one_line(done, status, part)
    assert "internal error" not in done.stderr
    if status == WRONG_USE:
        assert str(directory) in done.stderr, "which model is it?"


def test_damaged_gguf_files(tmp_path):
    for name, content in {
        "empty": b"",
        "zeros": bytes(100),
        "header": b"GGUF" + struct.pack("<IQQ", 3, 10**15, 10**15),
        "pickle": b"\x80\x04." * 50,
    }.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        assert_one_line(run(score, f"--model={path}", *ITEM), WRONG_USE, path.name)


RAISED = {
    "Ctrl-C": (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
    "memory of C++": (MemoryError("std::bad_alloc"), FAILED, "not enough memory: std::bad_alloc"),
    "memory of Python": (MemoryError(), FAILED, "not enough memory"),
    "memory of a device": (type("JaxRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: Out of memory\nmore"),
                           FAILED, "not enough memory: RESOURCE_EXHAUSTED: Out of memory more"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "/x/y"), FAILED, "/x/y: No space left on device"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), FAILED, "standard output: Disk quota exceeded"),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "/m/config.json"), FAILED,
                   "/m/config.json: Permission denied"),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "/x"), FAILED, "/x: Read-only file system"),
    "too many files": (OSError(errno.EMFILE, "Too many open files"), FAILED, "Too many open files: raise the limit"),
    "I/O error": (OSError(errno.EIO, "Input/output error", "/m/a"), FAILED, "/m/a: Input/output error"),
    "network": (pinned.FetchError("x cannot be fetched\nbecause"), FAILED, "x cannot be fetched because"),
    "no device": (RuntimeError("Unable to initialize backend 'tpu': no libtpu.so"), FAILED,
                  "no device: Unable to initialize backend 'tpu'"),
    "no home": (RuntimeError("Could not determine home directory."), WRONG_USE, "Could not determine home directory"),
    "a package": (ImportError("lib.so: failed to map segment"), FAILED, "a package cannot be loaded: lib.so"),
    "wrong value": (ValueError("a\x1b[31m\nb"), WRONG_USE, "a\\x1b[31m b"),
    "a fault of ours": (KeyError("x\ny"), FAILED, "internal error at "),
    "recursion": (RecursionError("too deep"), FAILED, "internal error at "),
}  # fmt: skip


@pytest.mark.parametrize(("error", "status", "line"), RAISED.values(), ids=RAISED.keys())
def test_every_exception_is_one_line(error, status, line, capsys):
    def work():
        raise error

    assert guarded("score", work) == status
    said = capsys.readouterr().err
    assert said.startswith(f"score: {line}")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("integration", "package", "extra"),
    [
        ("haystack", "haystack", "haystack"),
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("lm_eval.model", "lm_eval", "lm-eval"),
        ("pyterrier", "pyterrier", "pyterrier"),
    ],
)
def test_an_integration_says_what_to_install(monkeypatch, integration, package, extra):
    """Its framework is not among our packages; its name alone is not always what pip installs."""
    for name in [one for one in sys.modules if one.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"isoprefill.integrations.{integration}", raising=False)
    # Which of its packages is missed first is not ours to say.
    with pytest.raises(
        ImportError, match=rf"\w is not installed: pip install 'isoprefill\[{extra}\]'$"
    ):
        importlib.import_module(f"isoprefill.integrations.{integration}")


def test_a_very_long_line_loses_its_middle():
    """A path that was pasted twice, or a whole file in a flag, must not push the reason off the screen."""
    status, line = described(ValueError(f"{'x' * 100_000} is unknown"))
    assert status == WRONG_USE
    assert len(line) <= failures.LONGEST_LINE + 1
    assert line.endswith("xx is unknown")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("", "{} must not be empty"),
        ("x" * 5000, "is no path: File name too long"),
        ("~nobody-has-this-name/model", "Give paths in full"),
        ("loop", "'loop' is no path: Too many levels of symbolic links"),
        ("a\0b", "{} 'a\\x00b' "),
    ],
)
@pytest.mark.parametrize("flag", ["model", "adapter"])
def test_what_can_be_no_model(model, tmp_path, monkeypatch, flag, name, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    base = [] if flag == "model" else [f"--model={model}"]
    assert_one_line(run(score, *base, f"--{flag}={name}", *ITEM), WRONG_USE, part.format(flag))


def test_nobody_is_told_where_nobody_reads(capsys):
    def work():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert guarded("score", work) == NOBODY_READS
    assert capsys.readouterr().err == ""


def test_the_statuses_are_documented():
    """A script that calls the command reads them there."""
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition("## Exit statuses")[2].partition("\n## ")[0]
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", section, re.M)}
    ours = {0, FAILED, WRONG_USE, INTERRUPTED, NOBODY_READS}
    assert ours <= listed


def test_low_limits_are_refused_before_a_library_crashes(monkeypatch):
    """JAX and NumPy end the process with a dump of threads."""
    for limit, value, part in (
        (resource.RLIMIT_NOFILE, 10, "ulimit -n 32"),
        (resource.RLIMIT_AS, 10**9, "ulimit -v 1953125"),
    ):
        monkeypatch.setattr(
            failures.resource,
            "getrlimit",
            lambda one, low=limit, most=value: (
                (most if one == low else resource.RLIM_INFINITY,) * 2
            ),
        )
        with pytest.raises(failures.CommandFailed, match=part) as raised:
            failures.check_limits()
        assert described(raised.value)[0] == FAILED


def test_memory_that_does_not_suffice_is_said_in_numbers(model, monkeypatch):
    """Else the system ends the process without a word."""
    arguments = [f"--model={model}", *ITEM]
    with monkeypatch.context() as patch:
        patch.setattr(memory, "host_bytes", lambda: 10_000)
        done = run(score, *arguments)
        assert_one_line(done, FAILED, "bytes for its weights in float32", "may have 10000 bytes")
        assert "bfloat16 takes half of it" in done.stderr
        (float32,) = re.findall(r"needs about (\d+) bytes", done.stderr)
        done = run(score, *arguments, "--dtype=bfloat16")
        (bfloat16,) = re.findall(r"needs about (\d+) bytes", done.stderr)
        assert "bfloat16 takes" not in done.stderr
    # The number of weights, counted in another way: matrices, and vectors, which are always float32.
    parameters = list(
        random_model(
            "llama", num_hidden_layers=2, hidden_size=32, intermediate_size=32
        ).parameters()
    )
    matrices = sum(parameter.numel() for parameter in parameters if parameter.ndim > 1)
    vectors = sum(parameter.numel() for parameter in parameters if parameter.ndim == 1)
    # A matrix is packed in whole tiles: 300 rows take the memory of 304.
    assert 1 <= int(float32) / (4 * (matrices + vectors)) < 1.01
    assert 1 <= int(bfloat16) / (2 * matrices + 4 * vectors) < 1.01

    def refuse(*arguments, **more):
        raise MemoryError("Unable to allocate")

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "aligned_empty", refuse)
        done = run(score, *arguments)
        assert_one_line(done, FAILED, f"needs about {float32} bytes", "Unable to allocate")
    monkeypatch.setattr("isoprefill.execution.executor.Executor.run", refuse)
    done = run(score, *arguments)
    assert_one_line(done, FAILED, "a prefill of", "tokens needs about", "Unable to allocate")


def test_bfloat16_is_no_advice_where_it_takes_more(tmp_path, monkeypatch):
    """float32 keeps such a file's integers, in fewer bytes than bfloat16."""
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    path = save_gguf(random_model("llama"), tmp_path / "model.gguf", q8_0)
    monkeypatch.setattr(memory, "host_bytes", lambda: 10_000)
    monkeypatch.setattr(assembly, "keeps_integers", lambda _: True)
    done = run(score, f"--model={path}", *ITEM)
    assert_one_line(done, FAILED, "bytes for its weights in float32", "take a smaller model")
    assert "bfloat16 takes" not in done.stderr


def test_a_limit_of_address_space_makes_packs_smaller(model, monkeypatch):
    """Rows for which there is no room would be refused by C++ in the middle of a pack."""
    whole = ScoringEngine.from_pretrained(model).pack_tokens
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    left = memory.row_bytes(ScoringEngine.from_pretrained(model).model.config) * 8 * 2000
    monkeypatch.setattr(
        host_memory.resource, "getrlimit", lambda limit: (mapped + left, resource.RLIM_INFINITY)
    )
    assert ScoringEngine.from_pretrained(model).pack_tokens < whole


def test_caches_that_cannot_be_used(model, monkeypatch, tmp_path):
    """A full, read-only or missing cache costs time, or is named where the model must go into it."""
    for variables in (
        {"ISOPREFILL_CACHE": "/dev/null/x"},
        {"ISOPREFILL_CACHE": "", "XDG_CACHE_HOME": "", "HOME": None},
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value) if value is not None else patch.delenv(name, False)
            patch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
            patch.setattr(pinned.importlib.util, "find_spec", lambda name: None)
            assert run(score, f"--model={model}", *ITEM).status == 0
            done = run(score, *ITEM)
            assert done.status == FAILED
            assert "set ISOPREFILL_CACHE to a directory" in done.stderr.splitlines()[-1]
            assert "Traceback" not in done.stderr


def start(
    *arguments, python=sys.executable, program=("-m", "isoprefill"), **options
) -> subprocess.Popen:
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": path}
    # An interrupt that is raised while coverage.py takes its lock leaves it taken: the process then waits for ever.
    environment.pop("COVERAGE_PROCESS_START", None)
    return subprocess.Popen(
        [python, *program, *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_output_that_cannot_be_written(model):
    """Closed, full, or with a reader that has gone: the end of Python must not speak either."""
    arguments = ["score", f"--model={model}", *ITEM]
    with open("/dev/full", "w") as full:
        process = start(*arguments, stdout=full)
        said = process.communicate()[1]
        assert (process.returncode, said) == (
            FAILED,
            "score: standard output: No space left on device: make room, or write elsewhere\n",
        )
        process = start("serve", "--print-config", stdout=full)
        assert process.communicate()[1].startswith("serve: standard output: No space left")
        process = start("--help", stdout=full)
        assert process.communicate()[1].startswith("isoprefill: standard output: No space left")
        assert process.returncode == FAILED
    closed = ("-c", f'exec {sys.executable} -m isoprefill "$@" >&-', "sh")
    process = start(*arguments, python="/bin/sh", program=closed)
    said = process.communicate()[1]
    assert (process.returncode, "standard output is closed" in said) == (FAILED, True)
    assert len(said.splitlines()) == 1
    reading, writing = os.pipe()
    os.close(reading)
    process = start(*arguments, stdout=writing)
    os.close(writing)
    assert (process.communicate()[1], process.returncode) == ("", NOBODY_READS)


SLOW_IMPORT = """
import sys, time
from isoprefill.cli import entry

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "isoprefill.cli.main":
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
entry.main()
"""


def test_an_interrupt_while_python_imports():
    """JAX takes a second; Ctrl-C in it would show forty lines of where Python was."""
    process = start(stdout=subprocess.PIPE, program=("-c", SLOW_IMPORT))
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "isoprefill: interrupted\n"
    assert process.returncode == INTERRUPTED


CRASHES_AT_THE_END = """
import atexit, os
from isoprefill.cli import main

def interrupted(*arguments):
    raise KeyboardInterrupt

atexit.register(os.abort)
main._run = interrupted
main.run("score", ["score"])
"""


def test_nothing_is_taken_down_after_an_interrupt():
    """A device may still be computing: Python's end takes its memory away, and the process crashes."""
    process = start(stdout=subprocess.PIPE, program=("-c", CRASHES_AT_THE_END))
    assert process.communicate()[1] == "score: interrupted\n"
    assert process.returncode == INTERRUPTED


def test_an_interrupt_while_items_are_scored(model, tmp_path):
    # The first of them are there soon, the last after many seconds.
    (tmp_path / "items").write_text("a\n" * 10_000 + "some words " * 20 + "\n" + "ab\n" * 300_000)
    arguments = ["score", f"--model={model}", "--query=q", f"--items-file={tmp_path / 'items'}"]
    process = start(*arguments, "--sort=input", stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == INTERRUPTED, said
    assert re.fullmatch(r"(isoprefill|score): interrupted\n", said)
