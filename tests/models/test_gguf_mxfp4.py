"""gpt-oss's experts in a GGUF file's MXFP4 are those of the published checkpoint's, in every bit.

llama.cpp's converter packs a block of 32 in another order than the checkpoint, takes gate and up apart, and turns no
number into another. If one of these fails, experts are multiplied with each other's weights, and scores are wrong
silently. The checkpoint's numbers are transformers'.
"""

import json
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from decoder_logits import IDS, assert_same_logits, our_logits
from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.pretrained import load_pretrained
from model_refusals import assert_refused
from small_models import random_model
from unpacked_params import unpacked

SIZES = {"hidden_size": 96, "intermediate_size": 64, "head_dim": 24, "num_hidden_layers": 2}
SIZES |= {"rms_norm_eps": 2.0**-17}  # which GGUF does not round
Blocks = dict[
    str, tuple[np.ndarray, np.ndarray]
]  # of each tensor: bytes [X, N, K / 32, 16], scales [X, N, K / 32]


@pytest.fixture(scope="module")
def oracle() -> tuple[torch.nn.Module, Blocks]:
    """A model of random blocks, and these."""
    rng = np.random.default_rng(0)
    model, blocks = random_model("gpt_oss", **SIZES), {}
    for name, parameter in model.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = parameter.shape
            packed = rng.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8)
            scales = rng.integers(119, 126, packed.shape[:-1], np.uint8)
            blocks[name] = packed, scales
            with torch.no_grad():
                parameter.copy_(
                    convert_moe_packed_tensors(
                        torch.tensor(packed), torch.tensor(scales), dtype=torch.float32
                    )
                )
    return model, blocks


def checkpoint(oracle: tuple[torch.nn.Module, Blocks], directory: Path) -> Path:
    """As gpt-oss is published."""
    model, blocks = oracle
    save_directory(model, directory)
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    for name, (packed, scales) in blocks.items():
        del tensors[name]
        tensors |= {
            f"{name}_blocks": torch.tensor(packed),
            f"{name}_scales": torch.tensor(scales),
        }
    safetensors.torch.save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def gguf_bytes(blocks: Blocks) -> dict[str, np.ndarray]:
    """The tensors of a GGUF file: of each block its scale, then number i beside number i + 16."""
    tensors = {}
    for name, (packed, scales) in blocks.items():
        layer = name.split(".")[2]
        in_turn = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], 32)
        halves = in_turn[..., :16] | in_turn[..., 16:] << 4
        rows = np.concatenate([scales[..., None], halves], axis=-1)
        rows = rows.reshape(*packed.shape[:2], -1)
        if name.endswith(".down_proj"):
            tensors[f"blk.{layer}.ffn_down_exps.weight"] = rows
        else:
            tensors[f"blk.{layer}.ffn_gate_exps.weight"] = np.ascontiguousarray(rows[:, ::2])
            tensors[f"blk.{layer}.ffn_up_exps.weight"] = np.ascontiguousarray(rows[:, 1::2])
    return tensors


def save(oracle: tuple[torch.nn.Module, Blocks], path: Path, **options) -> Path:
    model, blocks = oracle
    packed = {
        name: (values, gguf.GGMLQuantizationType.MXFP4)
        for name, values in gguf_bytes(blocks).items()
    }
    return save_gguf(model, path, packed=packed | options.pop("packed", {}), **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_are_those_of_the_checkpoint(oracle, tmp_path, dtype):
    ours = load_pretrained(save(oracle, tmp_path / "small.gguf"), dtype)
    theirs = load_pretrained(checkpoint(oracle, tmp_path / "directory"), dtype)
    assert ours.config == theirs.config
    # As numbers: the package makes 0 of -0.
    jax.tree.map(np.testing.assert_array_equal, unpacked(ours.params), unpacked(theirs.params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("saved", [save, checkpoint], ids=["gguf", "directory"])
def test_memory_for_experts_is_counted_as_it_is_taken(saved, dtype, oracle, tmp_path):
    """Two bytes a weight in either dtype, where a file has two weights in a byte."""
    counted = []
    source = saved(oracle, tmp_path / ("small.gguf" if saved is save else "directory"))
    params = load_pretrained(source, dtype, check_memory=counted.append).params
    assert [one.num_bytes for one in counted] == [
        sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    ]


def test_logits_equal_transformers(oracle, tmp_path):
    assert_same_logits(load_pretrained(save(oracle, tmp_path / "small.gguf")), oracle[0])


@pytest.mark.parametrize("bias", ["ffn_up_exps", "ffn_gate_inp", "attn_q"])
def test_missing_biases_are_named(oracle, tmp_path, bias):
    path = save(oracle, tmp_path / "small.gguf", leave_out=f"blk.1.{bias}.bias")
    assert_refused(path, rf"tensor blk\.1\.{bias}\.bias (is missing|is not supported)|biases")


def test_a_swapped_half_or_a_dropped_bias_is_seen(oracle, tmp_path):
    """Were one not, the comparisons above would pass with it, too."""
    right = our_logits(load_pretrained(save(oracle, tmp_path / "right.gguf")), IDS)
    blocks = gguf_bytes(oracle[1])
    kind = gguf.GGMLQuantizationType.MXFP4
    gate, up, down = (blocks[f"blk.1.ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
    halves = down.reshape(-1, 17).copy()
    halves[:, 1:] = halves[:, 1:] >> 4 | halves[:, 1:] << 4
    no_bias = np.zeros((5, SIZES["intermediate_size"]), np.float32)
    faults = {
        "gate and up exchanged": {
            "packed": {
                "blk.1.ffn_gate_exps.weight": (up, kind),
                "blk.1.ffn_up_exps.weight": (gate, kind),
            }
        },
        "halves of a block exchanged": {
            "packed": {"blk.1.ffn_down_exps.weight": (halves.reshape(down.shape), kind)}
        },
        "no biases of up": {"extra_tensors": {"blk.1.ffn_up_exps.bias": no_bias}},
    }
    for name, fault in faults.items():
        wrong = load_pretrained(save(oracle, tmp_path / "wrong.gguf", **fault))
        assert np.abs(our_logits(wrong, IDS) - right).max() > 1e-2, name
