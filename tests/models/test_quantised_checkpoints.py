"""A quantised Hugging Face checkpoint loads as the weights that it stands for, by its format's definition.

The definitions are written out here number by number. If one of these fails, weights of a group have the scale or the
zero point of another, or rows are in another order, and scores are wrong silently.
"""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from huggingface_directory import save_directory
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.weights import assembly, packed_weights
from isoprefill.models.weights.packed_weights import SCALED_INTEGERS, PackedWeights, unpack
from model_refusals import assert_refused
from small_models import random_model

Tensors = dict[str, torch.Tensor]
# Of an integer of AWQ the nibbles, from the lowest, hold these of eight neighbouring outputs.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
GROUP = 32
QUERY = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Every size is a multiple of 32; no two are equal."""
    model = random_model("llama", num_hidden_layers=1, intermediate_size=96, head_dim=40)
    return save_directory(model, tmp_path_factory.mktemp("base"))


def write(
    base: Path, directory: Path, tensors: Tensors, quantization: dict[str, Any] | None
) -> Path:
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((base / name).read_bytes())
    config = json.loads((base / "config.json").read_text())
    if quantization is not None:
        config["quantization_config"] = quantization
    (directory / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, directory / "model.safetensors")
    return directory


def quantised(
    base: Path, quantise: Callable[[str, tuple[int, int]], tuple[Tensors, np.ndarray]]
) -> tuple[Tensors, Tensors]:
    """The tensors of the quantised model, and those of the plain model that it stands for."""
    stored = safetensors.torch.load_file(base / "model.safetensors")
    plain = dict(stored)
    for name in [name for name in stored if "_proj" in name]:
        tensors, values = quantise(name.removesuffix(".weight"), tuple(stored[name].shape))
        del stored[name]
        stored |= tensors
        plain[name] = torch.from_numpy(values.astype(np.float32))
    return stored, plain


def query_adapter(directory: Path) -> tuple[Path, np.ndarray]:
    """An adapter of the first layer's queries, and its change."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=size).astype(np.float32) for size in ((2, 64), (160, 2)))
    directory.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": [QUERY]}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    factors = {
        f"base_model.model.{QUERY}.lora_{name}.weight": torch.from_numpy(values)
        for name, values in (("A", a), ("B", b))
    }
    safetensors.torch.save_file(factors, directory / "adapter_model.safetensors")
    return directory, b @ a


def assert_stands_for(base, tmp_path, tensors: Tensors, plain: Tensors, config: dict) -> None:
    ours = load_pretrained(write(base, tmp_path / "quantised", tensors, config))
    theirs = load_pretrained(write(base, tmp_path / "plain", plain, None))

    def check(one, other):
        one, other = (
            unpack(w) if isinstance(w, PackedWeights) else np.asarray(w) for w in (one, other)
        )
        np.testing.assert_allclose(one, other, rtol=3e-7, atol=0)

    jax.tree.map(
        check, ours.params, theirs.params, is_leaf=lambda leaf: isinstance(leaf, PackedWeights)
    )


def random_of(module: str) -> np.random.Generator:
    return np.random.default_rng(list(module.encode()))


def signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def as_integers(nibbles: list[list[list[int]]]) -> torch.Tensor:
    """int32 of eight numbers each, that of the lowest bits first."""
    return torch.tensor(
        [
            [signed(sum(n << (4 * i) for i, n in enumerate(eight))) for eight in row]
            for row in nibbles
        ],
        dtype=torch.int32,
    )


# AWQ


def awq(module: str, shape: tuple[int, int], group: int = GROUP) -> tuple[Tensors, np.ndarray]:
    outputs, inputs = shape
    rng = random_of(module)
    q = rng.integers(0, 16, (inputs, outputs))
    zeros = rng.integers(0, 16, (inputs // group, outputs))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    values = np.array(
        [
            [
                float(scales[k // group, n]) * float(q[k, n] - zeros[k // group, n])
                for k in range(inputs)
            ]
            for n in range(outputs)
        ]
    )

    def packed(numbers: np.ndarray) -> torch.Tensor:
        return as_integers(
            [
                [[int(row[8 * c + AWQ_ORDER[i]]) for i in range(8)] for c in range(outputs // 8)]
                for row in numbers
            ]
        )

    tensors = {".qweight": packed(q), ".qzeros": packed(zeros), ".scales": torch.from_numpy(scales)}
    return {module + suffix: tensor for suffix, tensor in tensors.items()}, values


AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}


def test_awq(base, tmp_path):
    assert_stands_for(base, tmp_path, *quantised(base, awq), AWQ)


def test_awq_with_one_group(base, tmp_path):
    whole = quantised(base, lambda module, shape: awq(module, shape, shape[1]))
    assert_stands_for(base, tmp_path, *whole, AWQ | {"group_size": -1})


# GPTQ


def gptq(
    module: str, shape: tuple[int, int], *, act_order: bool = False, offset: int = 1
) -> tuple[Tensors, np.ndarray]:
    outputs, inputs = shape
    rng = random_of(module)
    groups = [k // GROUP for k in range(inputs)]
    if act_order:
        groups = rng.permutation(groups).tolist()
    q = rng.integers(0, 16, (inputs, outputs))
    zeros = rng.integers(offset, 16, (max(groups) + 1, outputs))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    values = np.array(
        [
            [
                float(scales[groups[k], n]) * float(q[k, n] - zeros[groups[k], n])
                for k in range(inputs)
            ]
            for n in range(outputs)
        ]
    )
    qweight = as_integers(
        [
            [[int(q[8 * r + i, n]) for i in range(8)] for n in range(outputs)]
            for r in range(inputs // 8)
        ]
    )
    qzeros = as_integers(
        [
            [[int(row[8 * c + i]) - offset for i in range(8)] for c in range(outputs // 8)]
            for row in zeros
        ]
    )
    tensors = {".qweight": qweight, ".qzeros": qzeros, ".scales": torch.from_numpy(scales)}
    tensors[".g_idx"] = torch.tensor(groups, dtype=torch.int32)
    return {module + suffix: tensor for suffix, tensor in tensors.items()}, values


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False}


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({}, {}),
        ({"act_order": True}, {"desc_act": True}),
        ({"offset": 0, "act_order": True}, {"checkpoint_format": "gptq_v2", "desc_act": True}),
    ],
)
def test_gptq(base, tmp_path, options, config):
    def made(module, shape):
        return gptq(module, shape, **options)

    assert_stands_for(base, tmp_path, *quantised(base, made), GPTQ | config)


def test_gptq_without_g_idx(base, tmp_path):
    tensors, plain = quantised(base, gptq)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("g_idx")}
    assert_stands_for(base, tmp_path, tensors, plain, GPTQ)


@pytest.mark.parametrize(("made", "config"), [(awq, AWQ), (gptq, GPTQ)], ids=["awq", "gptq"])
def test_float32_keeps_four_bits_as_integers_of_which_a_cpu_makes_the_same_weights(
    made, config, base, tmp_path, monkeypatch
):
    tensors, _ = quantised(base, made)
    directory = write(base, tmp_path / "x", tensors, config)
    layers = {}
    for keeps in (True, False):
        monkeypatch.setattr(assembly, "keeps_integers", lambda _, keeps=keeps: keeps)
        layers[keeps] = load_pretrained(directory).params.layers
    for field in ("query", "key", "value", "output", "gate", "up", "down"):
        kept, wide = (getattr(layers[keeps], field) for keeps in (True, False))
        assert kept.parts == SCALED_INTEGERS != wide.parts
        np.testing.assert_array_equal(unpack(kept), unpack(wide))


def with_act_order(*module):
    return gptq(*module, act_order=True)


@pytest.mark.parametrize("keeps", [True, False], ids=["integers", "floats"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapted", [False, True], ids=["", "adapter"])
@pytest.mark.parametrize(
    ("made", "config"),
    [(awq, AWQ), (gptq, GPTQ), (with_act_order, GPTQ | {"desc_act": True})],
    ids=["awq", "gptq", "act-order"],
)
def test_memory_is_counted_as_it_is_taken(
    made, config, adapted, dtype, keeps, base, tmp_path, monkeypatch
):
    """Counted less, a model that is too large would be read until the system ends the process; more, it is refused."""
    monkeypatch.setattr(assembly, "keeps_integers", lambda _: keeps)
    tensors, _ = quantised(base, made)
    directory = write(base, tmp_path / "x", tensors, config)
    adapter = query_adapter(tmp_path / "adapter")[0] if adapted else None
    counted = []
    model = load_pretrained(directory, dtype, adapter, counted.append)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    assert [one.num_bytes for one in counted] == [held]
    in_bfloat16 = load_pretrained(directory, "bfloat16", adapter).params
    assert counted[0].in_bfloat16 == sum(leaf.nbytes for leaf in jax.tree.leaves(in_bfloat16))


def test_memory_for_a_checkpoint_in_bfloat16_is_counted_as_it_is_taken(base, tmp_path):
    """In float32 it takes half of what floats would."""
    stored = safetensors.torch.load_file(base / "model.safetensors")
    stored = {name: tensor.bfloat16() for name, tensor in stored.items()}
    counted = []
    model = load_pretrained(write(base, tmp_path / "x", stored, None), check_memory=counted.append)
    assert model.params.layers.query.parts == 1
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    assert [one.num_bytes for one in counted] == [held]


def test_floats_are_gone_before_the_next_matrices_are_read(base, tmp_path, monkeypatch):
    """A checkpoint in bfloat16 is read as floats, a few matrices at a time, and kept in half of that."""
    stored = safetensors.torch.load_file(base / "model.safetensors")
    stored = {name: tensor.bfloat16() for name, tensor in stored.items()}
    floats = []

    def in_parts(matrices):
        assert not any(one() for one in floats)
        floats.extend(weakref.ref(one.data.base) for one in matrices)
        return packed_weights.in_parts(matrices)

    monkeypatch.setattr(assembly, "in_parts", in_parts)
    load_pretrained(write(base, tmp_path / "x", stored, None))
    assert len(floats) == len(stored) - 3  # all but norms


def test_groups_of_inputs_that_are_no_neighbours_stay_floats(base, tmp_path, monkeypatch):
    """A scale is for neighbours: with act-order, weights would get the scale of another group."""
    monkeypatch.setattr(assembly, "keeps_integers", lambda _: True)
    tensors, plain = quantised(base, with_act_order)
    assert_stands_for(base, tmp_path, tensors, plain, GPTQ | {"desc_act": True})


def test_a_scale_that_is_not_finite_is_named(base, tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "keeps_integers", lambda _: True)
    tensors, _ = quantised(base, gptq)
    tensors["model.layers.0.mlp.up_proj.scales"][1, 5] = float("inf")
    directory = write(base, tmp_path / "x", tensors, GPTQ)
    assert_refused(directory, r"model\.layers\.0\.mlp\.up_proj\.weight must be finite .* at \[5, 3")


@pytest.mark.parametrize("keeps", [True, False], ids=["integers", "floats"])
def test_a_scale_that_makes_weights_infinite_is_named(keeps, base, tmp_path, monkeypatch, recwarn):
    """Finite itself, it is too large for the integers; where these are kept, no weight is made of them."""
    monkeypatch.setattr(assembly, "keeps_integers", lambda _: keeps)
    tensors, _ = quantised(base, awq)
    name = "model.layers.0.mlp.up_proj.scales"
    tensors[name] = tensors[name].float()
    tensors[name][1, 5] = 1.7e38
    directory = write(base, tmp_path / "x", tensors, AWQ)
    assert_refused(directory, r"model\.layers\.0\.mlp\.up_proj\.weight must be finite .* at \[5, 3")
    assert not recwarn.list


def test_gptq_zero_point_that_programs_read_differently_is_refused(base, tmp_path):
    """0 stored as -1: some wrap around, and read 0, others read 16."""
    tensors, _ = quantised(base, gptq)
    name = "model.layers.0.mlp.up_proj.qzeros"
    tensors[name][0, 0] = -1
    directory = write(base, tmp_path / "x", tensors, GPTQ)
    assert_refused(directory, rf"{name} holds 15, which some programs read as the zero point 0")


def test_gptq_group_that_does_not_exist_is_refused(base, tmp_path):
    tensors, _ = quantised(base, gptq)
    name = "model.layers.0.mlp.up_proj.g_idx"
    tensors[name][3] = 99
    assert_refused(write(base, tmp_path / "x", tensors, GPTQ), rf"{name} must be in \[0, 2\)")


# FP8


def eight_bits(rng, shape, dtype) -> tuple[torch.Tensor, np.ndarray]:
    values = torch.from_numpy(rng.normal(size=shape).astype(np.float32)).to(dtype)
    return values, values.float().numpy().astype(np.float64)


def fp8_blocks(module: str, shape: tuple[int, int]) -> tuple[Tensors, np.ndarray]:
    """Blocks of 32 x 48, of which the last ones are cut."""
    rng = random_of(module)
    weight, numbers = eight_bits(rng, shape, torch.float8_e4m3fn)
    scales = rng.uniform(0.01, 0.1, (-(-shape[0] // 32), -(-shape[1] // 48))).astype(np.float32)
    values = np.array(
        [
            [numbers[n, k] * float(scales[n // 32, k // 48]) for k in range(shape[1])]
            for n in range(shape[0])
        ]
    )
    return {
        f"{module}.weight": weight,
        f"{module}.weight_scale_inv": torch.from_numpy(scales),
        f"{module}.input_scale": torch.tensor(0.5),
    }, values


def fp8_scales(
    shape_of: Callable[[int], tuple[int, ...]], dtype=torch.float8_e4m3fn
) -> Callable[[str, tuple[int, int]], tuple[Tensors, np.ndarray]]:
    def made(module: str, shape: tuple[int, int]) -> tuple[Tensors, np.ndarray]:
        rng = random_of(module)
        weight, numbers = eight_bits(rng, shape, dtype)
        scales = torch.tensor(rng.uniform(0.01, 0.1, shape_of(shape[0]))).to(torch.bfloat16)
        column = scales.double().numpy().reshape(-1, 1)  # one for all rows, or one each
        return {f"{module}.weight": weight, f"{module}.weight_scale": scales}, numbers * column

    return made


def test_fp8_with_scales_of_blocks(base, tmp_path):
    config = {"quant_method": "fp8", "weight_block_size": [32, 48], "activation_scheme": "dynamic"}
    assert_stands_for(base, tmp_path, *quantised(base, fp8_blocks), config)


FP8 = {"quant_method": "fp8", "weight_block_size": [32, 48]}


@pytest.mark.parametrize(("made", "config"), [(awq, AWQ), (fp8_blocks, FP8)], ids=["awq", "fp8"])
def test_experts(made, config, tmp_path):
    """Each is quantised on its own, and the router is not."""
    sizes = {"hidden_size": 64, "head_dim": 32, "moe_intermediate_size": 32, "num_experts": 3}
    model = random_model("qwen3_moe", num_hidden_layers=1, **sizes)
    base = save_directory(model, tmp_path / "base")
    assert_stands_for(base, tmp_path, *quantised(base, made), config)


def mxfp4(stored: Tensors) -> tuple[Tensors, Tensors]:
    """Experts in blocks of 32, and the tensors that transformers makes of them."""
    rng = np.random.default_rng(0)
    tensors, plain = dict(stored), dict(stored)
    for name in [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = stored[name].shape
        blocks = torch.tensor(rng.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8))
        scales = torch.tensor(rng.integers(119, 126, blocks.shape[:-1], np.uint8))
        del tensors[name]
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        plain[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).contiguous()
    return tensors, plain


def test_mxfp4(tmp_path):
    """The experts of gpt-oss, which a file has turned, and of gate and up column by column."""
    sizes = {"hidden_size": 96, "intermediate_size": 64, "head_dim": 24, "num_hidden_layers": 1}
    base = save_directory(random_model("gpt_oss", **sizes), tmp_path / "base")
    tensors, plain = mxfp4(safetensors.torch.load_file(base / "model.safetensors"))
    assert_stands_for(base, tmp_path, tensors, plain, {"quant_method": "mxfp4"})
    name = "model.layers.0.mlp.experts.down_proj"
    for change, message in (
        ({f"{name}_scales": None}, rf"tensor {name}_scales is missing"),
        ({f"{name}_scales": tensors[f"{name}_scales"][:1]}, rf"tensor {name}_blocks must be"),
        ({f"{name}_blocks": tensors[f"{name}_blocks"].to(torch.int8)}, r"must be U8, got I8"),
        ({f"{name}_scales": tensors[f"{name}_scales"] * 0 + 255}, r"must be finite in float32"),
        ({f"{name}_bias": torch.zeros(5)}, rf"tensor {name}_bias must be \[X, N\], got \[5\]"),
    ):
        changed = {key: value for key, value in (tensors | change).items() if value is not None}
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        assert_refused(write(base, directory, changed, {"quant_method": "mxfp4"}), message)


@pytest.mark.parametrize(
    ("made", "config"),
    [
        (fp8_scales(lambda rows: ()), {"quant_method": "fp8", "activation_scheme": "static"}),
        (fp8_scales(lambda rows: (1,), torch.float8_e5m2), {"quant_method": "fp8"}),
        (fp8_scales(lambda rows: (rows, 1)), {"quant_method": "fbgemm_fp8"}),
        (
            fp8_scales(lambda rows: (rows,)),
            {"quant_method": "compressed-tensors", "format": "float-quantized"},
        ),
    ],
)
def test_fp8_with_scales_of_matrices_or_rows(base, tmp_path, made, config):
    assert_stands_for(base, tmp_path, *quantised(base, made), config)


# What is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes"}, r"quant_method 'bitsandbytes' is not supported; .*awq"),
        ({"quant_method": None}, r"quant_method None is not supported"),
        ({"quant_method": ["awq"]}, r"quant_method \['awq'\] is not supported"),
        (["awq"], r"quantization_config must be an object, got list"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, r"'pack-quantized'"),
        (AWQ | {"bits": 8}, r"bits must be 4, got 8"),
        (AWQ | {"group_size": 0}, r"group_size must be positive or -1, got 0"),
        (AWQ | {"group_size": 16}, r"_proj\.qzeros must be I32 \[6, 8\], got I32 \[3, 8\]"),
        (AWQ | {"version": "gemv"}, r"version 'gemv' of AWQ is not supported; supported: gemm"),
        (AWQ | {"zero_point": False}, r"zero_point must be true"),
        (GPTQ | {"checkpoint_format": "marlin"}, r"checkpoint_format 'marlin' of GPTQ"),
        (GPTQ, r"must be"),
        ({"quant_method": "fp8"}, r"tensor .*q(weight|zeros) is not supported|is missing"),
    ],
)
def test_what_the_format_does_not_say_is_refused(base, tmp_path, config, message):
    """The tensors are AWQ's."""
    tensors, _ = quantised(base, awq)
    assert_refused(write(base, tmp_path / "x", tensors, config), message)


def test_tensors_that_are_missing_or_of_another_kind_are_named(base, tmp_path):
    tensors, _ = quantised(base, awq)
    name = "model.layers.0.mlp.up_proj.scales"
    without = {key: tensor for key, tensor in tensors.items() if key != name}
    assert_refused(write(base, tmp_path / "a", without, AWQ), rf"tensor {name} is missing")
    wrong = tensors | {name: tensors[name].int()}
    assert_refused(
        write(base, tmp_path / "b", wrong, AWQ), rf"tensor {name} must be F16 or .* got I32"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_scale_inv": None}, r"up_proj\.weight of F8_E4M3 must be .* got .* none of them"),
        ({"weight_scale": torch.ones(1)}, r"up_proj\.weight of F8_E4M3 must be .*weight_scale"),
        ({"weight_scale_inv": torch.ones(7, 2)}, r"up_proj\.weight \[96, 64\] must .* \[7, 2\]"),
        ({"weight_scale_inv": torch.full((3, 2), torch.nan)}, r"scales of .*up_proj.* finite"),
    ],
)
def test_fp8_without_the_right_scales_is_refused(base, tmp_path, change, message):
    """Values without their scales would load as if they were the weights."""
    tensors, _ = quantised(base, fp8_blocks)
    for suffix, tensor in change.items():
        name = f"model.layers.0.mlp.up_proj.{suffix}"
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    config = {"quant_method": "fp8", "weight_block_size": [32, 48]}
    assert_refused(write(base, tmp_path / "x", tensors, config), message)


def test_eight_bits_without_a_quantization_config_are_refused(base, tmp_path):
    tensors, _ = quantised(base, fp8_scales(lambda rows: ()))
    assert_refused(
        write(base, tmp_path / "x", tensors, None), r"weight_scale is not supported|eight bits"
    )


def test_a_quantised_model_takes_an_adapter(base, tmp_path):
    """The change is added to the widened weight."""
    tensors, plain = quantised(base, awq)
    adapter, change = query_adapter(tmp_path / "adapter")
    ours = load_pretrained(write(base, tmp_path / "q", tensors, AWQ), adapter=adapter)
    query = plain[f"{QUERY}.weight"].double().numpy() + change
    np.testing.assert_allclose(unpack(ours.params.layers.query)[0], query, atol=1e-6)
    assert ours.params.layers.query.dtype != ml_dtypes.bfloat16
