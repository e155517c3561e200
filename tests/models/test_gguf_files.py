"""A GGUF file is read as the `gguf` package reads it, and one that is incomplete or damaged is refused in one line.

If one of these fails, a user gets a traceback, or worse: scores from half a model.
"""

import struct

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from gguf_conversion import converted_keys
from gguf_writer import save_gguf
from isoprefill import ScoringEngine
from isoprefill.models.files import gguf_header, gguf_split
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.sources import pinned
from isoprefill.models.sources.description import describe_model
from isoprefill.models.sources.source import find_model, load_tokenizer
from model_refusals import assert_refused
from small_models import random_model


@pytest.fixture(scope="module")
def oracle() -> torch.nn.Module:
    return random_model("llama", num_hidden_layers=2)


def test_missing_gguf_tensor_is_named(oracle, tmp_path):
    path = save_gguf(oracle, tmp_path / "small.gguf", leave_out="blk.1.ffn_up.weight")
    assert_refused(path, r"tensor blk\.1\.ffn_up\.weight is missing")


def test_gguf_with_more_tokens_than_rows(oracle, tmp_path):
    """With a key that says how many rows there are it loads; else the rows of the last tokens may just be lost."""
    keys = converted_keys(oracle.config, "llama")
    extra = {
        "tokenizer.ggml.tokens": [*keys["tokenizer.ggml.tokens"], "<new>"],
        "tokenizer.ggml.token_type": [*keys["tokenizer.ggml.token_type"], 3],
    }
    assert_refused(
        save_gguf(oracle, tmp_path / "refused.gguf", extra_metadata=extra),
        r"tensor token_embd\.weight must have shape \[301, 64\].*, got \[300, 64\]",
    )
    extra["llama.vocab_size"] = 300
    model = load_pretrained(save_gguf(oracle, tmp_path / "loaded.gguf", extra_metadata=extra))
    assert model.config.vocab_size == 300
    assert model.tokenizer.encode("a<new>")[-1] == 300


def test_gguf_feed_forward_biases_are_refused(tmp_path):
    path = save_gguf(random_model("llama", mlp_bias=True), tmp_path / "small.gguf")
    assert_refused(path, r"tensor blk\.0\.ffn_(gate|up|down)\.bias is not supported")


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_k.bias",
        "blk.1.attn_q.bias",
        "blk.0.attn_q_norm.weight",
        "rope_factors_long.weight",
    ],
)
def test_gguf_tensor_without_a_place_is_named(oracle, tmp_path, name):
    extra = {name: np.ones(24, np.float32)}
    path = save_gguf(oracle, tmp_path / "small.gguf", extra_tensors=extra)
    assert_refused(path, rf"tensor {name} is not supported: a llama model .* has no such parameter")


def test_gguf_tensor_that_llama_cpp_does_not_use_is_allowed(oracle, tmp_path):
    extra = {"blk.0.attn_rot_embd.weight": np.ones(12, np.float32)}
    load_pretrained(save_gguf(oracle, tmp_path / "small.gguf", extra_tensors=extra))


def test_a_header_is_read_once(oracle, tmp_path, monkeypatch):
    """Of a vocabulary of 262,144 tokens it takes a second, and the engine and the front end need it twice each."""
    path = save_gguf(oracle, tmp_path / "small.gguf")
    read = []

    def counted(path):
        read.append(path)
        return gguf_header.read_header(path)

    monkeypatch.setattr(gguf_split, "read_header", counted)
    ScoringEngine.from_pretrained(path)
    assert read == [path]
    source = find_model(path)
    load_tokenizer(source), describe_model(source)
    assert read == [path] * 2


def test_absurd_number_of_layers_is_refused_at_once(oracle, tmp_path):
    """A flipped bit must not cost hours or all memory."""
    layers = {"llama.block_count": 2**32 - 1}
    path = save_gguf(oracle, tmp_path / "small.gguf", extra_metadata=layers)
    assert_refused(path, r"llama\.block_count must be from 1 to 10000, got 4294967295")


def test_gguf_quantisation_that_cannot_be_undone_is_named(oracle, tmp_path):
    path = save_gguf(oracle, tmp_path / "small.gguf", GGMLQuantizationType.F16)
    raw = bytearray(path.read_bytes())
    name = b"blk.0.attn_v.weight"
    kind_at = raw.index(name) + len(name) + 4 + 2 * 8
    assert struct.unpack_from("<I", raw, kind_at)[0] == GGMLQuantizationType.F16
    struct.pack_into("<I", raw, kind_at, GGMLQuantizationType.I16)
    path.write_bytes(raw)
    assert_refused(path, r"tensor blk\.0\.attn_v\.weight is stored as I16")


def test_gguf_header_equals_the_gguf_packages_reader(oracle, tmp_path):
    """Ours is its own reader, for speed; it must read every value and place the same."""
    everything = {
        "test.bool": True,
        "test.int": 7,
        "test.float": 0.5,
        "test.string": "größer",
        "test.ints": [1, -2, 3],
        "test.floats": [0.5, 1.5],
        "test.strings": ["a", "", "北京"],
    }
    path = save_gguf(
        oracle, tmp_path / "small.gguf", GGMLQuantizationType.F16, extra_metadata=everything
    )
    for file in (path, pinned.locate("smollm2-135m")):
        ours, theirs = gguf_header.read_header(file), gguf.GGUFReader(file)
        for name, field in theirs.fields.items():
            if not name.startswith("GGUF."):
                assert ours.metadata[name] == field.contents(), name
        assert len(ours.tensors) == len(theirs.tensors)
        for tensor in theirs.tensors:
            info = ours.tensors[tensor.name]
            assert info.shape == tuple(int(size) for size in tensor.shape[::-1])
            assert info.quantization == tensor.tensor_type
            assert (info.begin, info.num_bytes) == (tensor.data_offset, tensor.n_bytes)


def test_gguf_file_that_is_cut_short_is_refused(oracle, tmp_path):
    """At any length: an unfinished download must not load, nor read beyond the file's end."""
    whole = save_gguf(oracle, tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "part.gguf"
    for length in [*range(0, 400, 7), *range(400, len(whole), 9973), len(whole) - 64]:
        path.write_bytes(whole[:length])
        assert_refused(path, r"part\.gguf")


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [(0, b"GGML", r"not a GGUF file: .*b'GGML'"), (4, b"\0\0\0\3", r"GGUF version .* 50331648")],
)
def test_file_that_is_not_gguf_is_refused(oracle, tmp_path, at, value, message):
    path = save_gguf(oracle, tmp_path / "small.gguf")
    raw = bytearray(path.read_bytes())
    raw[at : at + len(value)] = value
    path.write_bytes(raw)
    assert_refused(path, message)
