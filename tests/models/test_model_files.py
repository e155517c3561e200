"""A model that is missing, incomplete, damaged or unsupported is refused in one line that says why.

If one of these fails, a user gets a traceback, or worse: scores from half a model.
"""

import dataclasses
import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
import torch
from gguf import GGMLQuantizationType

from isoprefill.models import gguf_header, pinned
from isoprefill.models.config import ModelConfig
from isoprefill.models.config_gguf import config_from_gguf
from isoprefill.models.config_huggingface import config_from_huggingface
from isoprefill.models.pretrained import load_pretrained
from small_models import random_model, save_directory, save_gguf

CONFIG = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}


def assert_refused(source: object, message: str, **options: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load_pretrained(source, **options)
    assert "\n" not in str(raised.value)


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
        directory, rf"tensor {name} is not supported: .* llama model has no place for it"
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


def test_tokenizer_larger_than_the_model_is_refused(tmp_path):
    """Its ids would be outside the embedding, where a gather silently clamps."""
    small = random_model("llama", vocab_size=200, bos_token_id=1, eos_token_id=1)
    assert_refused(save_directory(small, tmp_path), r"tokenizer has 257 tokens, .*weights have 200")


# Configurations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "gpt2"},
            r"'gpt2' is not supported; supported: llama, mistral, qwen2, qwen3",
        ),
        ({"model_type": None}, r"architecture None is not supported"),
        ({"vocab_size": None}, r"configuration has no vocab_size"),
        ({"vocab_size": "many"}, r"vocab_size must be a number, got 'many'"),
        ({"num_hidden_layers": 0}, r"num_layers must be a positive integer, got 0"),
        (
            {"num_key_value_heads": 3},
            r"num_query_heads must be a multiple of num_kv_heads = 3, got 4",
        ),
        ({"head_dim": 15}, r"head_dim must be even for RoPE, got 15"),
        ({"rms_norm_eps": 0.0}, r"rms_norm_eps must be a positive finite float, got 0\.0"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu' is not supported; supported: silu"),
        ({"mlp_bias": True}, r"mlp_bias"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor must be 1, got 0\.5"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            r"rope scaling 'yarn' is not supported",
        ),
        ({"rope_scaling": {"type": "linear"}}, r"has no factor"),
        (
            {"rope_scaling": {"type": "linear", "factor": 0.5}},
            r"factor must be at least 1, got 0\.5",
        ),
        (
            {"model_type": "mistral", "sliding_window": 128},
            r"sliding-window .* window is 128, less than its 512 positions",
        ),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 128},
            r"window is 128, less than its 512 positions",
        ),
        (
            {"model_type": "mistral", "max_position_embeddings": 4097},
            r"window is 4096, less than its 4097 positions",
        ),
        (
            {
                "model_type": "qwen3",
                "use_sliding_window": True,
                "max_position_embeddings": 4097,
            },
            r"window is 4096, less than its 4097 positions",
        ),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]},
            r"layer_types.*'sliding_attention'",
        ),
    ],
)
def test_config_json_that_means_another_computation_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config_from_huggingface(CONFIG | change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"head_dim": 16, "rope_theta": 10_000.0, "tied_head": False, "qkv_bias": False}),
        ({"num_key_value_heads": None}, {"num_kv_heads": 4}),
        ({"rope_theta": 5e5}, {"rope_theta": 5e5}),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, {"rope_theta": 5e5}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_frequency_divisors": (2.0,) * 8},
        ),
        ({"attention_bias": True}, {"qkv_bias": True, "output_bias": True}),
        ({"model_type": "qwen2"}, {"qkv_bias": True, "output_bias": False, "qk_norm": False}),
        ({"model_type": "qwen3"}, {"head_dim": 128, "qk_norm": True}),
        ({"model_type": "mistral", "sliding_window": 512}, {"qkv_bias": False}),
        (
            {"model_type": "mistral", "sliding_window": None, "max_position_embeddings": 4097},
            {"max_positions": 4097},
        ),
        ({"model_type": "qwen2", "max_position_embeddings": 4097}, {"max_positions": 4097}),
        (
            {"use_sliding_window": True, "max_position_embeddings": 4097},
            {"max_positions": 4097},
        ),
        ({"tie_word_embeddings": True}, {"tied_head": True}),
    ],
)
def test_config_json_of_either_transformers_version_is_read(change, expected):
    config = dataclasses.asdict(config_from_huggingface(CONFIG | change))
    assert {name: config[name] for name in expected} == expected


def test_config_is_hashable_and_checks_itself():
    """It is a static argument under jit: equal configurations must share one compilation."""
    config = config_from_huggingface(CONFIG)
    assert hash(config) == hash(config_from_huggingface(dict(CONFIG)))
    with pytest.raises(ValueError, match=r"must hold head_dim / 2 = 8 numbers, got 1"):
        dataclasses.replace(config, rope_frequency_divisors=(1.0,))
    with pytest.raises(ValueError, match=r"rope_frequency_divisors must be positive"):
        dataclasses.replace(config, rope_frequency_divisors=(0.0,) * 8)
    with pytest.raises(ValueError, match=r"architecture 'bert' is not supported"):
        dataclasses.replace(config, architecture="bert")


# GGUF files


def gguf_metadata(**changes: object) -> dict[str, object]:
    metadata = {
        "general.architecture": "llama",
        "llama.context_length": 512,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": 300,
    }
    return metadata | {key.replace("__", "."): value for key, value in changes.items()}


def read_gguf_config(
    metadata: dict[str, object], divisors: tuple[float, ...] | None = None
) -> ModelConfig:
    return config_from_gguf(
        metadata, tied_head=True, qkv_bias=False, output_bias=False, frequency_divisors=divisors
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general__architecture": "gemma3"}, r"'gemma3' is not supported; supported: llama, .*"),
        ({"llama__context_length": None}, r"has no llama\.context_length"),
        ({"llama__expert_count": 8}, r"expert_count must be 0, got 8"),
        ({"llama__attention__sliding_window": 128}, r"window is 128, less than its 512 positions"),
        ({"llama__rope__scaling__type": "yarn"}, r"rope scaling 'yarn' is not supported"),
        ({"llama__rope__dimension_count": 8}, r"dimension_count must equal head_dim 16, got 8"),
        (
            {"llama__attention__value_length": 8},
            r"value_length must equal the key length 16, got 8",
        ),
    ],
)
def test_gguf_metadata_that_means_another_computation_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_gguf_config(gguf_metadata(**change))


def test_gguf_rope_scaling_is_read():
    linear = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 2.0}
    assert read_gguf_config(gguf_metadata(**linear)).rope_frequency_divisors == (2.0,) * 8
    llama3 = (1.0,) * 7 + (8.0,)
    assert read_gguf_config(gguf_metadata(), llama3).rope_frequency_divisors == llama3
    with pytest.raises(ValueError, match=r"rope_freqs\.weight together with linear"):
        read_gguf_config(gguf_metadata(**linear), llama3)


def test_missing_gguf_tensor_is_named(oracle, tmp_path):
    path = save_gguf(oracle, tmp_path / "small.gguf", leave_out="blk.1.ffn_up.weight")
    assert_refused(path, r"tensor blk\.1\.ffn_up\.weight is missing")


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
    assert_refused(path, rf"tensor {name} is not supported: .* llama model has no place for it")


def test_gguf_tensor_that_llama_cpp_does_not_use_is_allowed(oracle, tmp_path):
    extra = {"blk.0.attn_rot_embd.weight": np.ones(12, np.float32)}
    load_pretrained(save_gguf(oracle, tmp_path / "small.gguf", extra_tensors=extra))


def test_absurd_number_of_layers_is_refused_at_once(oracle, tmp_path):
    """A flipped bit must not cost hours or all memory."""
    layers = {"llama.block_count": 2**32 - 1}
    path = save_gguf(oracle, tmp_path / "small.gguf", extra_metadata=layers)
    assert_refused(path, r"tensor blk\.2\.attn_norm\.weight is missing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 0.5}, r"factor must be at least 1, got 0\.5"),
        ({"low_freq_factor": 4.0}, r"high_freq_factor > low_freq_factor > 0, got 4\.0 and 4\.0"),
    ],
)
def test_llama3_rope_scaling_that_makes_no_sense_is_refused(change, message):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    with pytest.raises(ValueError, match=message):
        config_from_huggingface(CONFIG | {"rope_scaling": scaling | change})


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
