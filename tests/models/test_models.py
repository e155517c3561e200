"""The decoder computes what transformers computes, from every kind of file that it loads.

If one of these fails, scores are those of another model than the one that was asked for. Attention
is plain causal; transformers, in float32 on the same file, is the oracle.
"""

import dataclasses

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import AutoModelForCausalLM

from decoder_logits import IDS, assert_same_logits, causal_attend, our_logits, torch_logits
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.config.config_huggingface import config_from_huggingface
from isoprefill.models.decoder.decoder import (
    GATES,
    decode,
    head_weights,
    project,
    scaled_embeddings,
)
from isoprefill.models.decoder.mixture import ExpertWeights, mix
from isoprefill.models.decoder.rope import inverse_frequencies
from isoprefill.models.pretrained import Pretrained, load_pretrained
from isoprefill.models.sources import pinned
from isoprefill.models.weights.params import Params
from small_models import (
    GGUF_VARIANTS,
    LLAMA3_ROPE,
    SETTINGS,
    VARIANTS,
    random_model,
    save_directory,
    save_gguf,
    unpacked,
)
from transformers_gguf import model_by_transformers

PROMPTS = {
    "one token": "Hello",
    "sentence": "The capital of France is",
    "code and digits": "def f(x):\n    return x ** 2 + 3.14159\n\nprint(f(1234567890))",
    "unicode": "Größe 北京 🙂 naïve\u00a0façade — “quoted” ½",
    "long": "A list of facts about the cities of Europe, their rivers and bridges. " * 10,
}


@pytest.fixture(scope="module")
def smollm2() -> Pretrained:
    return load_pretrained("smollm2-135m")


@pytest.fixture(scope="module")
def torch_smollm2() -> torch.nn.Module:
    return model_by_transformers(pinned.locate("smollm2-135m"))


def test_published_likelihoods_come_out(smollm2):
    """Four log-probabilities that were computed elsewhere from the same file."""
    encode = smollm2.tokenizer.encode
    logits = our_logits(smollm2, encode("The capital of France is"))
    logprobs = np.asarray(jax.nn.log_softmax(logits[-1]))
    expected = {" Paris": -0.2581, " London": -4.3844, " Berlin": -6.9207}
    got = {item: logprobs[encode(item)[0]] for item in expected}
    assert got == pytest.approx(expected, abs=1e-4)

    query, banana = encode("The capital of France is"), encode(" banana")
    rows = jax.nn.log_softmax(our_logits(smollm2, query + banana))
    likelihood = sum(rows[len(query) - 1 + i, token] for i, token in enumerate(banana))
    assert likelihood == pytest.approx(-17.2379, abs=1e-4)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_smollm2_logits_equal_transformers(smollm2, torch_smollm2, prompt, record_property):
    ids = smollm2.tokenizer.encode(prompt)
    difference = np.abs(our_logits(smollm2, ids) - torch_logits(torch_smollm2, ids)).max()
    record_property("max_abs_logit_difference", float(difference))
    print(f"{len(ids)} tokens: max abs logit difference {difference:.2e}")
    assert difference <= 1e-3


def test_last_positions_equal_transformers(smollm2, torch_smollm2):
    """Far from the origin a wrong rounding of frequencies or angles would show."""
    ids = smollm2.tokenizer.encode(PROMPTS["sentence"])
    first = smollm2.config.max_positions - len(ids)
    ours = our_logits(smollm2, ids, first)
    assert np.abs(ours - torch_logits(torch_smollm2, ids, first)).max() <= 1e-3


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_rotary_frequencies_are_rounded_as_pytorch_rounds_them(theta, dim):
    """A frequency that is off by 1e-7 is off by 3e-4 radians at position 2,000, and a log-probability by as much."""
    exponents = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
    expected = (1.0 / theta**exponents).numpy()
    found = inverse_frequencies(dim, theta, None)
    # PyTorch's power is not always the nearest float32 either.
    assert np.count_nonzero(found != expected) <= 1
    np.testing.assert_allclose(found, expected, rtol=1.2e-7)


def test_parity_detects_a_wrong_rope_base(smollm2, torch_smollm2):
    """Were this to fail, the tests above could not see an error either."""
    ids = smollm2.tokenizer.encode(PROMPTS["sentence"])
    wrong_config = dataclasses.replace(smollm2.config, rope_theta=10_000.0)
    wrong = dataclasses.replace(smollm2, config=wrong_config)
    assert np.abs(our_logits(wrong, ids) - torch_logits(torch_smollm2, ids)).max() > 0.1


@pytest.mark.parametrize(("family", "overrides"), VARIANTS.values(), ids=VARIANTS.keys())
def test_families_equal_transformers(family, overrides, tmp_path):
    oracle = random_model(family, **overrides)
    assert_same_logits(load_pretrained(save_directory(oracle, tmp_path)), oracle)


@pytest.mark.parametrize("family", SETTINGS)
def test_every_parameter_counts(family, tmp_path):
    """Else the comparisons above could not see one that is dropped, or exchanged for another of its shape."""
    model = load_pretrained(save_directory(random_model(family), tmp_path))
    params = unpacked(model.params)
    fields = params._asdict() | params.layers._asdict()
    del fields["layers"]
    fields = {field: array for field, array in fields.items() if array is not None}
    expected = our_logits(model, IDS, params=params)

    def differs(**changed: jax.Array) -> bool:
        other = Params.from_fields(fields | changed)
        return bool(np.abs(our_logits(model, IDS, params=other) - expected).max() > 1e-2)

    if model.config.experts is not None:
        for field in ("router", "expert_gate", "expert_up", "expert_down"):  # another expert's
            assert differs(**{field: jnp.roll(fields[field], 1, axis=1)}), field
    for field, array in fields.items():
        if "bias" in field or "norm" in field or field == "sinks":
            assert differs(**{field: jnp.full_like(array, "norm" in field)}), field
        assert differs(**{field: jnp.roll(array, 1, axis=-1)}), field
        for other, same_shape in fields.items():
            if other > field and same_shape.shape == array.shape:
                assert differs(**{field: same_shape, other: array}), (field, other)


@pytest.mark.parametrize("change", [{"normalised": False}, {"chosen": 2}, {"chosen": 4}], ids=str)
def test_parity_detects_another_choice_of_experts(change, tmp_path):
    """Were this to fail, the tests above could not see whether shares are normalised, or how many experts count."""
    oracle = random_model("qwen3_moe")
    model = load_pretrained(save_directory(oracle, tmp_path))
    experts = dataclasses.replace(model.config.experts, **change)
    wrong = dataclasses.replace(model, config=dataclasses.replace(model.config, experts=experts))
    assert np.abs(our_logits(wrong, IDS) - torch_logits(oracle, IDS)).max() > 0.1


def test_an_expert_does_not_see_other_rows_in_xla(tmp_path):
    """Bit for bit. Other rows decide where a row stands among those of its experts, and how many these are."""
    model = load_pretrained(save_directory(random_model("qwen3_moe"), tmp_path))
    layers = jax.tree.map(lambda stacked: stacked[0], unpacked(model.params).layers)
    experts = model.config.experts
    run = jax.jit(mix, static_argnames=("experts", "gated"))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((90, model.config.hidden_size)), jnp.float32)

    def mixed(rows):
        logits = jax.vmap(lambda row: (layers.router * row).sum(axis=1))(rows)
        weights = ExpertWeights(layers.expert_gate, layers.expert_up, layers.expert_down)
        return np.asarray(run(rows, logits, weights, experts, GATES["silu"]))

    expected, kept = mixed(x), np.arange(0, 90, 3)
    for _ in range(3):
        others = jnp.asarray(rng.standard_normal(x.shape), jnp.float32).at[kept].set(x[kept])
        found = mixed(others)
        np.testing.assert_array_equal(found[kept], expected[kept])
        assert not np.any(np.delete(found, kept, axis=0) == np.delete(expected, kept, axis=0))


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_stored_head_beside_a_tied_embedding_equals_transformers(tmp_path, factor):
    """transformers ties the two only if they are equal, whatever config.json says."""
    oracle = random_model("llama", tie_word_embeddings=True)
    directory = save_directory(oracle, tmp_path)
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["lm_head.weight"] = factor * tensors["model.embed_tokens.weight"]
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    model = load_pretrained(directory)
    assert model.config.tied_head == (factor == 1.0)
    theirs = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    assert_same_logits(model, theirs)


def test_shards_equal_one_file(tmp_path):
    oracle = random_model("llama")
    directory = save_directory(oracle, tmp_path, max_shard_size="100KB")
    assert len(list(directory.glob("*.safetensors"))) > 2
    assert_same_logits(load_pretrained(directory), oracle)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_files_load_as_float32(stored, tmp_path):
    """The values must be those of the file exactly: float32 holds every bfloat16 and float16."""
    oracle = random_model("qwen3")
    directory = save_directory(oracle, tmp_path, dtype=stored)
    model = load_pretrained(directory)
    assert model.params.layers.query.dtype == jnp.float32
    if stored == torch.bfloat16:  # so that it takes no more memory than the file
        assert model.params.layers.query.parts == 1
    assert_same_logits(model, oracle)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gemma", "granite"])
def test_embeddings_are_scaled_as_transformers_scales_them(family, dtype):
    """Gemma rounds sqrt(66) to the dtype of the weights, Granite does not round its factor."""
    overrides = {"embedding_multiplier": 66**0.5} if family == "granite" else {}
    oracle = random_model(family, **overrides).to(getattr(torch, dtype))
    table = oracle.get_input_embeddings()
    ids = torch.tensor(IDS)
    expected = table(ids) if family == "gemma" else table(ids) * oracle.config.embedding_multiplier
    config = config_from_huggingface(oracle.config.to_dict())
    embeddings = jnp.asarray(table.weight.detach().float().numpy())[jnp.asarray(IDS)]
    found = scaled_embeddings(embeddings, config, jnp.dtype(dtype)).astype(dtype)
    np.testing.assert_array_equal(np.asarray(found, np.float32), expected.detach().float().numpy())


def test_bfloat16_parameters_give_close_logits(tmp_path):
    """bfloat16 is a real choice, not float32 under another name, and not garbage."""
    oracle = random_model("llama")
    model = load_pretrained(save_directory(oracle, tmp_path), "bfloat16")
    assert model.params.embedding.dtype == jnp.bfloat16
    difference = np.abs(our_logits(model, IDS) - torch_logits(oracle, IDS))
    assert difference.max() > 1e-3
    assert difference.mean() < 0.05 * torch_logits(oracle, IDS).std()


@pytest.mark.parametrize(("family", "overrides"), GGUF_VARIANTS.values(), ids=GGUF_VARIANTS.keys())
def test_gguf_equals_the_directory(family, overrides, tmp_path):
    """What one architecture's file has and another's has not: the same numbers come out, to the bit.

    The norms of 1 + w are added up by llama.cpp's converter, the rows of q and k reordered.
    """
    oracle = random_model(family, **overrides)
    ours = load_pretrained(save_gguf(oracle, tmp_path / "small.gguf"))
    theirs = load_pretrained(save_directory(oracle, tmp_path / "directory"))
    for field in dataclasses.fields(ModelConfig):
        if field.name == "architecture":  # Mistral's is Llama's
            continue
        one, other = (getattr(model.config, field.name) for model in (ours, theirs))
        numbers = np.asarray(one).dtype.kind == "f"
        assert numbers or one == other, field.name
        if numbers:  # GGUF stores them in float32
            np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=field.name)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_quantised_gguf_equals_its_dequantised_values(kind, tmp_path):
    quantization = gguf.GGMLQuantizationType[kind]
    oracle = random_model("llama", intermediate_size=64, head_dim=32)
    path = save_gguf(oracle, tmp_path / "small.gguf", quantization)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if "norm" not in name:
                packed = gguf.quants.quantize(parameter.numpy(), quantization)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(packed, quantization)))
    assert_same_logits(load_pretrained(path), oracle)


def test_gguf_llama3_rope_equals_transformers(tmp_path):
    """Llama 3 files carry the scaling as a tensor of divisors, one a pair."""
    oracle = random_model("llama", rope_parameters=LLAMA3_ROPE)
    plain = random_model("llama").model.rotary_emb.inv_freq
    divisors = (plain / oracle.model.rotary_emb.inv_freq).numpy()
    path = save_gguf(oracle, tmp_path / "small.gguf", extra_tensors={"rope_freqs.weight": divisors})
    assert_same_logits(load_pretrained(path), oracle)


@pytest.mark.parametrize("rows", [64, 128, 200, 1024])
def test_a_rows_result_does_not_depend_on_its_place(smollm2, rows):
    """Bit for bit. Else an item's score would depend on how many items stand before it."""

    def attend(q, k, v, _):
        group = q.shape[1] // k.shape[1]
        return 0.01 * (q + jnp.repeat(k, group, axis=1)) + jnp.repeat(v, group, axis=1)

    @jax.jit
    def run(params, token_ids, positions):
        hidden, kv = decode(params, config, token_ids, positions, attend, return_kv=True)
        return hidden, project(hidden[:256], head_weights(params)), *kv

    # Four layers of the thirty: every layer's arithmetic is the same.
    config = dataclasses.replace(smollm2.config, num_layers=4)
    layers = jax.tree.map(lambda stacked: stacked[:4], smollm2.params.layers)
    params = smollm2.params._replace(layers=layers)
    rng = np.random.default_rng(rows)
    ids = rng.integers(0, config.vocab_size, rows).astype(np.int32)
    positions = rng.integers(0, config.max_positions, rows).astype(np.int32)
    # Logits of the first rows only, so these are permuted among themselves.
    first = min(rows, 256)
    order = np.concatenate([rng.permutation(first), first + rng.permutation(rows - first)])
    hidden, logits, keys, values = map(np.asarray, run(params, ids, positions))
    again = map(np.asarray, run(params, ids[order], positions[order]))
    for before, after, axis in zip(
        (hidden, logits, keys, values), again, (0, 0, 1, 1), strict=True
    ):
        moved = np.take(before, order[: before.shape[axis]], axis)
        np.testing.assert_array_equal(moved, after)


def test_a_step_does_not_copy_bfloat16_weights(tmp_path):
    """Left to itself, XLA converts all layers' bfloat16 weights to float32 at every call, on a CPU."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8}
    model = load_pretrained(save_directory(random_model("llama", **sizes), tmp_path), "bfloat16")
    size = model.params.layers.gate.data.nbytes

    def attend(q, k, v, _):
        return q + jnp.tile(k + v, (1, q.shape[1] // k.shape[1], 1))

    def temporary_bytes(params):
        rows = jnp.zeros(64, jnp.int32)
        compiled = (
            jax.jit(lambda params, rows: decode(params, model.config, rows, rows, attend))
            .lower(params, rows)
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(model.params) < size
    # Else there is nothing to avoid, and bits.py can go.
    assert temporary_bytes(unpacked(model.params)) > size


def test_keys_and_values_equal_transformers(tmp_path):
    """They are what a prefix cache holds: wrong ones would be wrong for every later item."""
    oracle = random_model("qwen3")
    model = load_pretrained(save_directory(oracle, tmp_path))
    positions = jnp.arange(len(IDS), dtype=jnp.int32)
    ids = jnp.asarray(IDS, jnp.int32)
    run = jax.jit(decode, static_argnames=("config", "attend", "return_kv"))
    _, kv = run(model.params, model.config, ids, positions, causal_attend, return_kv=True)
    with torch.inference_mode():
        cache = oracle(torch.tensor([IDS]), use_cache=True).past_key_values
    for layer in range(model.config.num_layers):
        for ours, theirs in zip(
            kv, (cache.layers[layer].keys, cache.layers[layer].values), strict=True
        ):
            np.testing.assert_allclose(ours[layer], theirs[0].transpose(0, 1), atol=1e-4)


def test_each_layer_attends_with_its_own_cache(tmp_path):
    """A cached prefix continues to the same logits as the whole text at once."""
    oracle = random_model("llama")
    model = load_pretrained(save_directory(oracle, tmp_path))
    ids = jnp.asarray(IDS, jnp.int32)
    positions = jnp.arange(len(IDS), dtype=jnp.int32)
    run = jax.jit(decode, static_argnames=("config", "attend", "return_kv"))
    _, cache = run(
        model.params, model.config, ids[:50], positions[:50], causal_attend, return_kv=True
    )

    def attend(q, k, v, layer_cache):
        keys, values = (jnp.concatenate(pair) for pair in zip(layer_cache, (k, v), strict=True))
        queries = jnp.concatenate([jnp.zeros((50, *q.shape[1:])), q])
        return causal_attend(queries, keys, values, None)[50:]

    hidden, kv = run(model.params, model.config, ids[50:], positions[50:], attend, cache)
    assert kv is None
    logits = project(hidden, head_weights(model.params))
    assert np.abs(logits - torch_logits(oracle, IDS)[50:]).max() <= 1e-3
