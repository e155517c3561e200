"""Classification heads are read as transformers and llama.cpp write them, or refused in one line.

If one of these fails, a class gets another's name, or a model loads whose head is not the one in its file.
"""

import json

import numpy as np
import pytest

from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.config.classes import Classes, classes_from_gguf, classes_from_huggingface
from isoprefill.models.pretrained import load_pretrained
from model_refusals import assert_refused
from small_models import random_classifier, random_model

CLASSIFIER = {"architectures": ["Qwen3ForSequenceClassification"]}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"architectures": None}, None),
        ({"architectures": ["Qwen3ForCausalLM"], "id2label": {"0": "a"}}, None),
        (CLASSIFIER, Classes(("LABEL_0", "LABEL_1"))),
        (CLASSIFIER | {"num_labels": 1}, Classes(("LABEL_0",))),
        (CLASSIFIER | {"id2label": {"1": "b", "0": "a", "2": "c"}}, Classes(("a", "b", "c"))),
        (
            CLASSIFIER | {"id2label": {str(i): f"n{i}" for i in range(11)}},
            Classes(tuple(f"n{i}" for i in range(11))),
        ),
        (CLASSIFIER | {"id2label": {"0": 7}, "problem_type": "regression"}, Classes(("7",))),
        (
            CLASSIFIER | {"problem_type": "multi_label_classification"},
            Classes(("LABEL_0", "LABEL_1"), independent=True),
        ),
    ],
)
def test_config_json(config, expected):
    """Ten classes and more are in the order of their numbers, not of their keys as text."""
    assert classes_from_huggingface(config) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id2label": ["a", "b"]}, "id2label must be an object"),
        (
            {"id2label": {"0": "a", "2": "b"}},
            "id2label must name each of the 2 classes 0 to 1 once",
        ),
        ({"id2label": {}}, "num_labels must be an integer from 1 to 65536, got 0"),
        ({"num_labels": 3, "id2label": {"0": "a"}}, "must name each of the 3 classes"),
        ({"num_labels": 2**63}, "num_labels must be an integer from 1 to 65536, got 9223"),
        ({"num_labels": "2"}, "num_labels must be an integer"),
        ({"num_labels": True}, "num_labels must be an integer"),
        ({"problem_type": "ranking"}, "problem_type must be one of"),
    ],
)
def test_config_json_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        classes_from_huggingface(CLASSIFIER | change)


def test_gguf_names():
    names = {"general.architecture": "qwen3", "qwen3.classifier.output_labels": ["yes", "no"]}
    assert classes_from_gguf(names, 2) == Classes(("yes", "no"))
    assert classes_from_gguf({"general.architecture": "qwen3"}, 1) == Classes(("LABEL_0",))
    with pytest.raises(ValueError, match=r"output_labels must name each of the head's 3 classes"):
        classes_from_gguf(names, 3)
    with pytest.raises(ValueError, match="from 1 to 65536, got 4611686018427387904"):
        classes_from_gguf(names, 2**62)


@pytest.mark.parametrize(
    ("names", "relevant"),
    [(("x",), 0), (("no", "yes"), 1), (("Yes", "no"), 0), (("a", "b"), 1), (("a", "b", "c"), None)],
)
def test_relevant_class(names, relevant):
    """What a reranker sorts by: the wrong one turns the order round."""
    assert Classes(names).relevant == relevant


def test_directory_whose_head_is_not_what_config_json_says_is_refused(tmp_path):
    directory = save_directory(random_classifier("qwen3", num_labels=3), tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())

    def write(**changes):
        (directory / "config.json").write_text(json.dumps(config | changes))

    write(id2label={"0": "a"})
    assert_refused(directory, r"tensor score\.weight must have shape \[1, 64\].* got \[3, 64\]")
    write(architectures=["Qwen3ForCausalLM"])
    assert_refused(directory, r"tensor lm_head\.weight is missing")
    lm = save_directory(random_model("qwen3"), tmp_path / "lm")
    config = json.loads((lm / "config.json").read_text())
    config["architectures"] = ["Qwen3ForSequenceClassification"]
    (lm / "config.json").write_text(json.dumps(config))
    assert_refused(lm, r"tensor score\.weight is missing")


def test_gguf_head_of_one_class_without_its_outer_axis(tmp_path):
    """llama.cpp's tools leave out outer axes of size 1 when they rewrite a file."""
    model = random_classifier("qwen3", num_labels=1)
    plain = load_pretrained(save_gguf(model, tmp_path / "two_axes.gguf"))
    row = {"cls.output.weight": model.score.weight[0].detach().numpy()}
    flat = load_pretrained(save_gguf(model, tmp_path / "one_axis.gguf", extra_tensors=row))
    assert flat.config == plain.config
    np.testing.assert_array_equal(flat.params.class_head.data, plain.params.class_head.data)


def test_gguf_with_both_heads_reads_the_classification_head(tmp_path):
    """llama.cpp's converter leaves the language-model head of a reranker in its file; it takes no memory here."""
    model = random_classifier("qwen3", num_labels=2)
    head = {"output.weight": np.ones((300, 64), np.float32)}
    loaded = load_pretrained(save_gguf(model, tmp_path / "both.gguf", extra_tensors=head))
    assert loaded.params.head is None
    assert loaded.config.classes == Classes(("LABEL_0", "LABEL_1"))


def test_gguf_with_a_layer_before_its_head_is_refused(tmp_path):
    """llama.cpp has `cls.weight` for encoders only."""
    model = random_classifier("qwen3", num_labels=2)
    extra = {"cls.weight": np.ones((64, 64), np.float32)}
    path = save_gguf(model, tmp_path / "dense.gguf", extra_tensors=extra)
    assert_refused(path, r"tensor cls\.weight is not supported")
