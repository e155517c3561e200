"""A model that is missing, or a directory that is incomplete or damaged, is refused in one line that says why.

If one of these fails, a user gets a traceback, or worse: scores from half a model.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from tokenizers import processors

from byte_level_tokenizer import byte_tokenizer
from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.pretrained import load_pretrained
from isoprefill.request.errors import RequestError
from isoprefill.request.model_limits import ModelLimits
from isoprefill.request.options import ScoreOptions
from isoprefill.request.preparer import Preparer
from model_refusals import assert_refused
from small_models import random_model


@pytest.fixture(scope="module")
def oracle() -> torch.nn.Module:
    return random_model("llama", num_hidden_layers=2)


@pytest.fixture
def directory(oracle, tmp_path) -> Path:
    return save_directory(oracle, tmp_path)


# Finding a model


def test_unknown_name_lists_the_pinned_ones():
    assert_refused("no-such-model", r"'no-such-model' is unknown: .*smollm2-135m")


def test_missing_file_is_named(tmp_path):
    assert_refused("no-such-model.gguf", r"'no-such-model.gguf' does not exist")
    assert_refused(tmp_path / "absent", r"absent' does not exist")


def test_directory_without_config_is_refused(tmp_path):
    assert_refused(tmp_path, r"has no config\.json")


def test_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert_refused(tmp_path / "model.safetensors", r"must be a \.gguf file; .*directory")


def test_models_are_named_after_their_source(oracle, directory):
    assert load_pretrained(directory).name == directory.name
    assert load_pretrained(save_gguf(oracle, directory / "tiny.gguf")).name == "tiny.gguf"


def test_unknown_dtype_is_refused(directory):
    assert_refused(directory, r"dtype must be one of .*bfloat16.*, got 'float16'", dtype="float16")


# Hugging Face directories


def test_pickled_weights_are_not_loaded(oracle, directory):
    """Unpickling runs code."""
    (directory / "model.safetensors").unlink()
    torch.save(oracle.state_dict(), directory / "pytorch_model.bin")
    assert_refused(directory, r"has neither model\.safetensors nor model\.safetensors\.index\.json")


def test_code_beside_a_model_is_not_run(directory, tmp_path):
    config = json.loads((directory / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model", "AutoConfig": "modeling.C"}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load_pretrained(directory)
    assert not (tmp_path / "ran").exists()


def rewrite(directory: Path, **changes: np.ndarray | None) -> None:
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path) | changes
    kept = {name: values for name, values in tensors.items() if values is not None}
    safetensors.numpy.save_file(kept, path)


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"],
)
def test_missing_tensor_is_named(directory, name):
    rewrite(directory, **{name: None})
    assert_refused(directory, rf"tensor {name} is missing")


def test_tensor_of_the_wrong_shape_is_named(directory):
    name = "model.layers.0.self_attn.k_proj.weight"
    rewrite(directory, **{name: np.zeros((47, 64), np.float32)})
    assert_refused(directory, rf"tensor {name} must have shape \[48, 64\].*got \[47, 64\]")


def test_integer_weights_are_refused(directory):
    """Quantised values without their scales would load as if they were the weights."""
    name = "model.layers.0.self_attn.k_proj.weight"
    rewrite(directory, **{name: np.zeros((48, 64), np.int8)})
    assert_refused(directory, rf"tensor {name} must be floating point, got int8")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.mlp.up_proj.bias",
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.2.input_layernorm.weight",
        "model.layers.0.self_attn.k_proj.weight_scale",
        "score.weight",
    ],
)
def test_tensor_without_a_place_is_named(directory, name):
    """Left out silently, it would make another model of this one."""
    rewrite(directory, **{name: np.ones(64, np.float32)})
    assert_refused(
        directory, rf"tensor {name} is not supported: a llama model .* has no such parameter"
    )


def test_tensors_that_change_nothing_are_allowed(directory):
    names = ["model.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.inv_freq"]
    rewrite(directory, **dict.fromkeys(names, np.ones(12, np.float32)))
    load_pretrained(directory)


def test_missing_shard_is_named(oracle, tmp_path):
    directory = save_directory(oracle, tmp_path, max_shard_size="100KB")
    shard = sorted(directory.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert_refused(directory, rf"shard {shard.name} is missing")


def test_shard_outside_the_directory_is_refused(oracle, tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    save_directory(oracle, directory)
    (directory / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_refused(directory, r"shard \.\./elsewhere\.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("contents", [b"", b"not what it should be", b"[]"])
def test_damaged_file_is_named(directory, name, contents):
    (directory / name).write_bytes(contents)
    assert_refused(directory, name.replace(".", r"\."))


def test_index_without_weight_map_is_refused(directory):
    (directory / "model.safetensors.index.json").write_text("{}")
    assert_refused(directory, r"index\.json has no weight_map")


def test_tokenizer_may_be_larger_than_the_model(tmp_path):
    """A token that no request uses costs nothing; one without an embedding, where a gather would clamp, is refused."""
    small = random_model("llama", vocab_size=200, bos_token_id=1, eos_token_id=1, pad_token_id=None)
    model = load_pretrained(save_directory(small, tmp_path))
    assert model.tokenizer.vocab_size == 257
    preparer = Preparer(model.tokenizer, ModelLimits(model.config.vocab_size, 512, 4096, 64))
    preparer.request("Hello", ["you"])
    for query, items, labels in (
        ("Hello<s>", ["a"], None),
        ("Hello", ["a", "<s>"], None),
        ("Hello", ["a"], preparer.labels(["<s>"])),
    ):
        with pytest.raises(RequestError, match=r"must be in \[0, 200\), got 256"):
            preparer.request(query, items, ScoreOptions(labels=labels))


def test_beginning_of_text_without_an_embedding_is_refused(tmp_path):
    """Every request would use it."""
    small = random_model("llama", vocab_size=200, bos_token_id=1, eos_token_id=1, pad_token_id=None)
    save_directory(small, tmp_path)
    backend = byte_tokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 256)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    assert_refused(tmp_path, r"every text begins with token 256, but the weights have 200 tokens")


def test_missing_head_says_what_may_be_done(directory):
    """Many files are saved without a head that is tied, and with a configuration that does not say so."""
    rewrite(directory, **{"lm_head.weight": None})
    message = (
        r"tensor lm_head\.weight is missing, .*not the embedding.*set tie_word_embeddings to true"
    )
    assert_refused(directory, message)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert load_pretrained(directory).config.tied_head


def test_tensor_in_two_shards_is_refused(oracle, tmp_path):
    """Which of them counts would depend on the files' names."""
    directory = save_directory(oracle, tmp_path, max_shard_size="100KB")
    first, second, *_ = sorted(directory.glob("model-*.safetensors"))
    both = safetensors.numpy.load_file(first) | safetensors.numpy.load_file(second)
    safetensors.numpy.save_file(both, second)
    assert_refused(directory, rf"{second.name} has tensor .*, which another file has too")
