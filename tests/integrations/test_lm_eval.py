"""lm-evaluation-harness itself: our model beside its `hf` model on the same weights, and its command.

Needs its package (requirements/integrations.lock). If one of these fails, evaluations of others cannot be compared with
ours.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from http_oracle import MODEL
from huggingface_directory import save_directory

pytest.importorskip("lm_eval")
os.environ["HF_HUB_OFFLINE"] = "1"
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from isoprefill.integrations.lm_eval.model import IsoprefillLM

SHOTS = (
    "Which word? A fruit: apple. A city: Rome. A colour: red. A number: seven. A bird: wren.\n" * 2
)
QUESTIONS = ("A tree:", "A fish: ", "", "A river that is long:")
CHOICES = (" oak", " e", "el and more", " Nile.")
YAML = """
task: small
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(save_directory(MODEL, tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def both(directory):
    hf = HFLM(pretrained=directory, device="cpu", dtype="float32", batch_size=3)
    return IsoprefillLM(pretrained=directory), hf


def instances(kind: str, arguments: list[tuple[str, ...]]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=one, idx=index)
        for index, one in enumerate(arguments)
    ]


def test_likelihoods_and_greediness_are_those_of_hf(both):
    """With few-shot prefixes, spaces at borders, empty contexts, and texts that are longer than the model takes."""
    pairs = [
        (shots + question, choice)
        for shots in (SHOTS, "", "ab" * 300)
        for question in QUESTIONS
        for choice in CHOICES
    ]
    ours, theirs = (one.loglikelihood(instances("loglikelihood", pairs)) for one in both)
    np.testing.assert_allclose([x for x, _ in ours], [x for x, _ in theirs], atol=1e-3)
    assert [x for _, x in ours] == [x for _, x in theirs]


def test_likelihoods_of_texts_are_those_of_hf(both):
    """In windows where they are longer than the model's positions."""
    texts = [("short",), ("a" * 511,), ("b" * 512,), ("c" * 513,), ("some text " * 120,)]
    ours, theirs = (
        one.loglikelihood_rolling(instances("loglikelihood_rolling", texts)) for one in both
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3)


def test_generation_is_refused_with_the_reason(both):
    with pytest.raises(NotImplementedError, match="never generates"):
        both[0].generate_until(instances("generate_until", [("a", {})]))
    with pytest.raises(ValueError, match="device is chosen by JAX"):
        IsoprefillLM(pretrained="smollm2-135m", device="cuda")


def test_the_harness_command_finds_the_model(directory, tmp_path):
    """Same accuracy as hf, by the command that a user types."""
    data = tmp_path / "test.jsonl"
    documents = [
        {"text": SHOTS + question, "choices": list(CHOICES), "answer": number % 4}
        for number, question in enumerate(("A tree:", "A fish:", "A river:", "A fruit:"))
    ]
    data.write_text("".join(json.dumps(one) + "\n" for one in documents))
    (tmp_path / "small.yaml").write_text(YAML.format(data=data))
    accuracies = {}
    for model, module in (
        ("isoprefill", "isoprefill.integrations.lm_eval"),
        ("hf", "lm_eval"),
    ):
        device = ["--device=cpu"] if model == "hf" else []
        command = [
            sys.executable,
            "-m",
            module,
            "run",
            f"--model={model}",
            "--tasks=small",
            *device,
        ]
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        done = subprocess.run(
            [
                *command,
                f"--model_args=pretrained={directory},dtype=float32",
                f"--include_path={tmp_path}",
                f"--output_path={tmp_path / model}",
            ],
            env=os.environ | {"PYTHONPATH": path, "HF_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        (report,) = (tmp_path / model).rglob("results*.json")
        accuracies[model] = json.loads(report.read_text())["results"]["small"]["acc,none"]
    assert accuracies["isoprefill"] == accuracies["hf"]
