"""The check of a real sglang-jax tree, on planted differences and planted answers: what it would not see, nobody would.

Its comparison of interfaces is tested in test_sglang_jax_interface.py; what it runs needs a real sglang-jax.
"""

import copy
import pathlib
import shutil
import sys

import numpy as np
import pytest
from absl import app

STAND_IN = pathlib.Path(__file__).parents[1] / "support" / "sglang_stand_in"
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))

from check_sglang_jax import comparison, main  # noqa: E402
from check_sglang_jax.run_engine import ITEMS, LABELS, TEXT_ITEMS  # noqa: E402


@pytest.fixture
def checkout(tmp_path):
    """A tree as sglang-jax's repository has it, of the stand-ins; without the packages that it needs."""
    shutil.copytree(STAND_IN / "sgl_jax", tmp_path / "python" / "sgl_jax")
    return tmp_path


def test_a_tree_as_expected_passes_and_says_what_was_not_run(checkout, capsys):
    """Else a check without sglang-jax's packages would look like one that ran it."""
    assert main.check(checkout, sys.executable) == 0
    printed = capsys.readouterr().out
    assert "interface: as expected\n" in printed
    assert (
        f"end to end: not run, because {sys.executable} reports: ModuleNotFoundError: No module named 'flax'"
        in printed
    )
    assert main.check(checkout / "python", sys.executable) == 0


@pytest.mark.parametrize(
    ("module", "old", "new", "named"),
    [
        ("layers/radix_attention", "num_kv_heads,\n        layer_id,", "layer_id,\n        num_kv_heads,",
         "RadixAttention.__init__: expected (self, num_heads"),
        ("managers/io_struct", "class GenerateReqInput", "class GenerateRequest",
         "io_struct.GenerateReqInput: expected a class, found none"),
        ("mem_cache/memory_pool", "def get_fused_kv_buffer", "def fused_kv_buffer",
         "MHATokenToKVPool.get_fused_kv_buffer: expected (self, layer_id), found none"),
        ("server_args", "class", "class class", "sgl_jax.srt.server_args: expected source for Python"),
    ],
)  # fmt: skip
def test_a_planted_difference_fails_and_is_named(checkout, capsys, module, old, new, named):
    """Missing, renamed, in another order, or in a Python that cannot be read."""
    path = checkout / "python" / "sgl_jax" / "srt" / f"{module}.py"
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new, 1))
    assert main.check(checkout, sys.executable) == 1
    printed = capsys.readouterr().out
    assert f"- sgl_jax.srt.{module.replace('/', '.')}" in printed
    assert named in printed
    assert "1 differences" in printed


def test_a_directory_without_sglang_jax_is_refused(tmp_path):
    with pytest.raises(app.UsageError, match="holds neither sgl_jax nor python/sgl_jax"):
        main.check(tmp_path, sys.executable)


def test_a_python_of_a_wanted_version_is_found():
    """sglang-jax's source has syntax that older Pythons cannot read."""
    this = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert main.find_python([this]) == sys.executable
    assert main.find_python(["2.1"]) == sys.executable


def test_an_engine_that_fails_says_why(checkout):
    """What the engine printed is all that tells why."""
    case = main.CASES[0]
    with pytest.raises(RuntimeError, match=r"engine failed \(1\):(.|\n)*No module named 'flax'"):
        main.answers(sys.executable, checkout / "python", checkout, case, None)


def test_an_engine_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    """sglang-jax's front end waits for ever if its scheduler dies."""
    monkeypatch.setattr(main, "RUN", tmp_path / "run.py")
    monkeypatch.setattr(main, "ENGINE_TIMEOUT_S", 1)
    (tmp_path / "run.py").write_text("import time\nprint('started', flush=True)\ntime.sleep(600)\n")
    with pytest.raises(RuntimeError, match=r"no answer in 1 s\):\nstarted"):
        main.answers(sys.executable, tmp_path, tmp_path, main.CASES[0], None)


# The comparison of answers


@pytest.fixture
def answers():
    """Of sglang-jax by itself, and with our scoring: in agreement."""
    generator = np.random.default_rng(0)

    def scores(items):
        return generator.uniform(0.1, 0.9, (items, len(LABELS)))

    own = {
        "tokens 0": scores(len(ITEMS)),
        "tokens 1": scores(len(ITEMS)),
        "text": scores(len(TEXT_ITEMS)),
        "softmax": scores(len(TEXT_ITEMS)),
        "item first": scores(1),
        "generations": [
            [[5, 6], [None, -1.5], [-2.0, -3.0]],
            [[7, 8], [None, -2.5], [-1.0, -4.0]],
        ],
    }
    own["generations again"] = copy.deepcopy(own["generations"])
    own["contaminated"] = own["tokens 0"][:-1] * 0.9
    ours = {name: copy.deepcopy(value) for name, value in own.items() if name != "contaminated"}
    ours |= {"alone": own["tokens 0"] * (1 + 1e-6), "prefills": 1, "generated": [5, 6]}
    return own, ours


def test_answers_in_agreement_pass(answers):
    result = comparison.compare(*answers)
    assert result.problems == ()
    assert 0 < result.difference < 1e-5
    assert result.contamination == pytest.approx(-np.log(0.9))


def one_score(name):
    def plant(own, ours):
        ours[name][-1][0] *= 1.001

    return plant


@pytest.mark.parametrize(
    ("plant", "problem"),
    [
        *((one_score(name), f"scores of '{name}' differ by 0.001") for name in (*comparison.SCORES, "alone")),
        (lambda own, ours: ours.update({"text": ours["text"][:-1]}), "scores of 'text' differ by inf"),
        (lambda own, ours: ours["text"].fill(np.nan), "scores of 'text' differ by nan"),
        (lambda own, ours: ours.update(prefills=5), "5 prefills"),
        (lambda own, ours: own.update(contaminated=own["tokens 0"][:-1]), "isolation was not tested"),
        (lambda own, ours: ours["generations"][1].__setitem__(0, [7, 9]), "generations: tokens [7, 8] became [7, 9]"),
        (lambda own, ours: ours["generations again"][0][1].__setitem__(1, -1.25), "generation differ by 0.25"),
        (lambda own, ours: ours.update(generated=[5, 7]), "beside scoring: tokens [5, 6] became [5, 7]"),
    ],
)  # fmt: skip
def test_a_planted_answer_is_named(answers, plant, problem):
    """The comparison must be able to fail, in each of its parts."""
    plant(*answers)
    problems = comparison.compare(*answers).problems
    assert len(problems) == 1
    assert problem in problems[0]
