"""A LoRA adapter is added to the weights as the method defines it, or refused in one line.

If one of these fails, scores are those of another model than the one that was trained.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.weights.packed_weights import PackedWeights, unpack
from model_refusals import assert_refused
from small_models import random_model

LAYERS = 2
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "bias": "none", "target_modules": []}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    model = random_model("llama", num_hidden_layers=LAYERS)
    return save_directory(model, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def linear(base) -> dict[str, tuple[int, int]]:
    """Every linear module of the layers, and the shape of its weight."""
    tensors = safetensors.numpy.load_file(base / "model.safetensors")
    return {
        name.removesuffix(".weight"): values.shape
        for name, values in tensors.items()
        if "_proj" in name
    }


def save_adapter(
    directory: Path, ranks: dict[str, int], shapes: dict[str, tuple[int, int]], **config: Any
) -> dict[str, np.ndarray]:
    """Writes an adapter with random factors; returns B A of each module, float64."""
    directory.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    tensors, products = {}, {}
    for module, rank in ranks.items():
        outputs, inputs = shapes[module]
        a = rng.normal(size=(rank, inputs)).astype(np.float32) * 0.1
        b = rng.normal(size=(outputs, rank)).astype(np.float32) * 0.1
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
        products[module] = b.astype(np.float64) @ a.astype(np.float64)
    safetensors.numpy.save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return products


def merged_directory(base: Path, directory: Path, changes: dict[str, np.ndarray]) -> Path:
    """The model with its weights changed in float64 and rounded once to float32."""
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((base / name).read_bytes())
    tensors = safetensors.numpy.load_file(base / "model.safetensors")
    for module, change in changes.items():
        name = f"{module}.weight"
        tensors[name] = (tensors[name].astype(np.float64) + change).astype(np.float32)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    return directory


def assert_same_weights(ours, theirs, atol: float = 5e-7) -> None:
    def plain(weights):
        return unpack(weights) if isinstance(weights, PackedWeights) else np.asarray(weights)

    def check(one, other):
        np.testing.assert_allclose(plain(one), plain(other), rtol=0, atol=atol)

    def is_leaf(leaf):
        return isinstance(leaf, PackedWeights)

    jax.tree.map(check, ours.params, theirs.params, is_leaf=is_leaf)


def settings_of(case: str) -> tuple[dict[str, Any], Any, Any, Any]:
    """Settings, and functions of a module: whether it is changed, its rank, its scale."""
    everything, no = (lambda module: True), (lambda module: 4)
    if case == "list":
        return (
            {"target_modules": ["q_proj", "mlp.down_proj"]},
            lambda m: m.endswith(("q_proj", "down_proj")),
            no,
            lambda r: 6 / r,
        )
    if case == "regex":
        pattern = r"model\.layers\.1\..*\.(q|v)_proj"
        return (
            {"target_modules": pattern},
            lambda m: re.fullmatch(pattern, m),
            no,
            lambda r: 6 / r,
        )
    if case == "all-linear, rsLoRA":
        return (
            {"target_modules": "all-linear", "use_rslora": True},
            everything,
            no,
            lambda r: 6 / math.sqrt(r),
        )
    if case == "one layer":
        settings = {"target_modules": list(ATTENTION), "layers_to_transform": [1]}
        return settings, lambda m: ".1." in m and "self_attn" in m, no, lambda r: 6 / r
    assert case == "excluded"
    settings = {"target_modules": "all-linear", "exclude_modules": ["up_proj"]}
    return settings, lambda m: not m.endswith("up_proj"), no, lambda r: 6 / r


@pytest.mark.parametrize("case", ["list", "regex", "all-linear, rsLoRA", "one layer", "excluded"])
def test_weights_are_those_of_the_definition(base, linear, tmp_path, case):
    settings, is_changed, rank_of, scale_of = settings_of(case)
    ranks = {module: rank_of(module) for module in linear if is_changed(module)}
    products = save_adapter(tmp_path / "adapter", ranks, linear, **settings)
    changes = {m: scale_of(ranks[m]) * product for m, product in products.items()}
    expected = load_pretrained(merged_directory(base, tmp_path / "merged", changes))
    assert_same_weights(load_pretrained(base, adapter=tmp_path / "adapter"), expected)


def patterned(linear) -> tuple[dict[str, int], dict[str, Any], dict[str, float]]:
    """Ranks and scales by patterns: a module's own name, its end, a regular expression; the first one wins."""
    ranks = {m: 2 if m.endswith("q_proj") else 3 if ".1.mlp" in m else 4 for m in linear}
    settings = {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, r"model\.layers\.1\.mlp\.\w+": 3, "up_proj": 4},
        "alpha_pattern": {"self_attn.k_proj": 32, "model.layers.0.mlp.up_proj": 1},
    }
    alphas = {
        m: 32 if "k_proj" in m else 1 if m.endswith("layers.0.mlp.up_proj") else 6 for m in linear
    }
    return ranks, settings, {m: alphas[m] / ranks[m] for m in linear}


@pytest.mark.parametrize("file_format", ["safetensors", "GGUF"])
def test_rank_and_alpha_patterns(base, linear, tmp_path, file_format):
    """From a GGUF file, too, whose rows of q and k lie in another order."""
    ranks, settings, scales = patterned(linear)
    products = save_adapter(tmp_path / "adapter", ranks, linear, **settings)
    changes = {m: scales[m] * product for m, product in products.items()}
    expected = load_pretrained(merged_directory(base, tmp_path / "merged", changes))
    source = base
    if file_format == "GGUF":
        model = random_model("llama", num_hidden_layers=LAYERS)
        source = save_gguf(model, tmp_path / "base.gguf")
    assert_same_weights(load_pretrained(source, adapter=tmp_path / "adapter"), expected)


@pytest.mark.parametrize("file_format", ["safetensors", "GGUF"])
def test_fused_projections(tmp_path, file_format):
    """Of Phi-3: query, key and value are rows of one tensor, gate and up of another, and GGUF has names of its own."""
    model = random_model("phi3", num_hidden_layers=LAYERS)
    base = save_directory(model, tmp_path / "base")
    shapes = {
        name.removesuffix(".weight"): tuple(values.shape)
        for name, values in model.state_dict().items()
        if "_proj" in name
    }
    assert {name.rpartition(".")[2] for name in shapes} > {"qkv_proj", "gate_up_proj"}
    ranks = dict.fromkeys(shapes, 4)
    products = save_adapter(tmp_path / "adapter", ranks, shapes, target_modules="all-linear")
    changes = {module: 6 / 4 * product for module, product in products.items()}
    expected = load_pretrained(merged_directory(base, tmp_path / "merged", changes))
    source = base if file_format == "safetensors" else save_gguf(model, tmp_path / "base.gguf")
    assert_same_weights(load_pretrained(source, adapter=tmp_path / "adapter"), expected)


def test_sum_is_made_in_float32_and_rounded_once(base, linear, tmp_path):
    """Rounding the change, or the product, to bfloat16 first would cost bits."""
    ranks = dict.fromkeys(linear, 4)
    products = save_adapter(tmp_path / "adapter", ranks, linear, target_modules="all-linear")
    changes = {m: 1.5 * product for m, product in products.items()}
    merged = merged_directory(base, tmp_path / "merged", changes)
    ours = load_pretrained(base, "bfloat16", tmp_path / "adapter")
    theirs = load_pretrained(merged, "bfloat16")
    different = total = 0
    for one, other in zip(ours.params.layers, theirs.params.layers, strict=True):
        if isinstance(one, PackedWeights):
            different += int((unpack(one) != unpack(other)).sum())
            total += unpack(one).size
    # Where float32 sums that differ in the last bit lie on both sides of a border.
    assert different <= total / 1000


def test_saved_modules_take_the_place_of_the_models(base, linear, tmp_path):
    tensors = safetensors.numpy.load_file(base / "model.safetensors")
    head = np.random.default_rng(2).normal(size=tensors["lm_head.weight"].shape).astype(np.float32)
    module = "model.layers.0.self_attn.q_proj"
    products = save_adapter(
        tmp_path / "adapter", {module: 4}, linear,
        target_modules=[module], modules_to_save=["lm_head"],
    )  # fmt: skip
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    saved = safetensors.numpy.load_file(path) | {"base_model.model.lm_head.weight": head}
    safetensors.numpy.save_file(saved, path)
    changes = {
        module: 1.5 * products[module],
        "lm_head": head.astype(np.float64) - tensors["lm_head.weight"],
    }
    expected = load_pretrained(merged_directory(base, tmp_path / "merged", changes))
    assert_same_weights(load_pretrained(base, adapter=tmp_path / "adapter"), expected)


def test_an_embeddings_adapter(base, linear, tmp_path):
    tensors = safetensors.numpy.load_file(base / "model.safetensors")
    rows, width = tensors["model.embed_tokens.weight"].shape
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(4, rows)), rng.normal(size=(width, 4))
    save_adapter(tmp_path / "adapter", {}, linear, target_modules=["embed_tokens"])
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    factors = {f"{name}A": a.astype(np.float32), f"{name}B": b.astype(np.float32)}
    safetensors.numpy.save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors")
    change = 1.5 * (factors[f"{name}B"].astype(np.float64) @ factors[f"{name}A"]).T
    merged = merged_directory(base, tmp_path / "merged", {"model.embed_tokens": change})
    ours = load_pretrained(base, adapter=tmp_path / "adapter")
    assert_same_weights(ours, load_pretrained(merged), atol=3e-6)
    # peft also saves the weight below the factors, which may be another than the model's.
    below = tensors["model.embed_tokens.weight"] * 2
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    saved = factors | {"base_model.model.model.embed_tokens.base_layer.weight": below}
    safetensors.numpy.save_file(saved, path)
    change += below - tensors["model.embed_tokens.weight"]
    merged = merged_directory(base, tmp_path / "merged_below", {"model.embed_tokens": change})
    ours = load_pretrained(base, adapter=tmp_path / "adapter")
    assert_same_weights(ours, load_pretrained(merged), atol=3e-6)
    tied = random_model("llama", num_hidden_layers=1, tie_word_embeddings=True)
    directory = save_directory(tied, tmp_path / "tied")
    assert_refused(
        directory,
        r"changes the embedding, which is the model's head too",
        adapter=tmp_path / "adapter",
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, r"peft_type must be LORA, got 'IA3'"),
        ({"use_dora": True}, r"use_dora is not supported"),
        ({"bias": "lora_only"}, r"bias 'lora_only' is not supported"),
        ({"lora_bias": True}, r"lora_bias is not supported"),
        ({"fan_in_fan_out": True}, r"fan_in_fan_out is not supported"),
        ({"layer_replication": [[0, 2]]}, r"layer_replication is not supported"),
        ({"target_parameters": ["x"]}, r"target_parameters is not supported"),
        ({"something_new": 1}, r"something_new is not supported"),
        ({"init_lora_weights": "pissa"}, r"'pissa' is not supported: it changes the weights below"),
        ({"r": 0}, r"r must be a positive number, got 0"),
        ({"r": "many"}, r"r must be a positive number, got 'many'"),
        (
            {"r": 5},
            r"factors of .*q_proj must be \[5, K\] and \[N, 5\].* got \[4, 64\] and \[96, 4\]",
        ),
        ({"lora_alpha": None}, r"lora_alpha must be a positive number, got None"),
        ({"alpha_pattern": {"q_proj": "x"}}, r"alpha_pattern must hold positive numbers"),
        ({"rank_pattern": {"(": 4}}, r"pattern '\(' cannot be read"),
        ({"target_modules": 5}, r"target_modules must be a pattern or a list of names"),
        ({"target_modules": ["k_proj"]}, r"has tensors for .*q_proj, but its .* does not name it"),
        ({"target_modules": ["q_proj", "v_proj"]}, r"no tensors for .*v_proj, which its .* names"),
        ({"layers_to_transform": ["x"]}, r"layers_to_transform must be a list of integers"),
    ],
)
def test_settings_that_mean_something_else_are_refused(base, linear, tmp_path, config, message):
    modules = [m for m in linear if m.endswith("q_proj")]
    defaults = {"target_modules": ["q_proj"]}
    save_adapter(tmp_path / "a", dict.fromkeys(modules, 4), linear, **defaults | config)
    assert_refused(base, message, adapter=tmp_path / "a")


def test_an_incomplete_adapter_is_refused(base, linear, tmp_path):
    """A layer without its change would be another model."""
    module = "model.layers.0.self_attn.q_proj"
    save_adapter(tmp_path / "a", {module: 4}, linear, target_modules=["q_proj"])
    assert_refused(
        base, r"no tensors for model\.layers\.1\.self_attn\.q_proj", adapter=tmp_path / "a"
    )
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({n: v for n, v in tensors.items() if "lora_A" in n}, path)
    assert_refused(base, r"only one of two factors for .*q_proj", adapter=tmp_path / "a")
    safetensors.numpy.save_file(tensors | {"base_model.model.x": np.ones(3, np.float32)}, path)
    assert_refused(base, r"tensor base_model\.model\.x is not supported", adapter=tmp_path / "a")
    path.unlink()
    assert_refused(base, r"it has no adapter_model\.safetensors", adapter=tmp_path / "a")
    assert_refused(base, r"absent' does not exist", adapter=tmp_path / "absent")


def test_an_adapter_of_another_model_is_refused(base, linear, tmp_path):
    module = "model.layers.0.self_attn.q_proj"
    save_adapter(tmp_path / "a", {module: 4}, {module: (96, 65)}, target_modules=[module])
    assert_refused(
        base,
        r"q_proj as a matrix \[96, 65\], but the model's is \[96, 64\]",
        adapter=tmp_path / "a",
    )
    module = "model.layers.7.self_attn.q_proj"
    save_adapter(tmp_path / "a", {module: 4}, {module: (96, 64)}, target_modules=[module])
    assert_refused(
        base, r"changes model\.layers\.7.*no tensor model\.layers\.7", adapter=tmp_path / "a"
    )


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_adapters_of_experts_are_refused(family, tmp_path):
    """One of the other modules is added to the weights, though "all-linear" may mean experts and the router, too."""
    directory = save_directory(random_model(family, num_hidden_layers=1), tmp_path / "base")
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    shapes = {
        name.removesuffix(".weight"): values.shape
        for name, values in tensors.items()
        if values.ndim == 2
    }
    attention = [module for module in shapes if "self_attn" in module]
    options = {"target_modules": "all-linear"}
    adapter = tmp_path / "adapter"
    products = save_adapter(adapter, dict.fromkeys(attention, 4), shapes, **options)
    changes = {module: 1.5 * product for module, product in products.items()}
    expected = load_pretrained(merged_directory(directory, tmp_path / "merged", changes))
    assert_same_weights(load_pretrained(directory, adapter=adapter), expected)
    expert = next(module for module in shapes if "experts.1" in module)
    save_adapter(adapter, dict.fromkeys([*attention, expert], 4), shapes, **options)
    message = rf"changes {re.escape(expert)}: adapters of experts are not supported"
    assert_refused(directory, message, adapter=adapter)
    gguf = save_gguf(random_model(family, num_hidden_layers=1), tmp_path / "base.gguf")
    assert_refused(gguf, message, adapter=adapter)


def test_magnitudes_of_dora_are_refused(base, linear, tmp_path):
    """Even where the settings do not say that they are there."""
    module = "model.layers.0.self_attn.q_proj"
    save_adapter(tmp_path / "a", {module: 4}, linear, target_modules=[module])
    path = tmp_path / "a" / "adapter_model.safetensors"
    name = f"base_model.model.{module}.lora_magnitude_vector"
    tensors = safetensors.numpy.load_file(path) | {name: np.ones(96, np.float32)}
    safetensors.numpy.save_file(tensors, path)
    assert_refused(base, rf"tensor {name} is not supported", adapter=tmp_path / "a")


def test_a_nan_in_an_adapter_is_found(base, linear, tmp_path):
    module = "model.layers.0.self_attn.q_proj"
    save_adapter(tmp_path / "a", {module: 4}, linear, target_modules=[module])
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors[f"base_model.model.{module}.lora_B.weight"][7, 1] = np.nan
    safetensors.numpy.save_file(tensors, path)
    assert_refused(base, rf"tensor {module}\.weight must be finite", adapter=tmp_path / "a")
