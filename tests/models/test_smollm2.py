"""The decoder computes what transformers computes with the weights of a real model, SmolLM2-135M.

If one of these fails, a trained model has other likelihoods than those it was published with. Attention is plain
causal; transformers, in float32 on the same file, is the oracle.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from decoder_logits import our_logits, torch_logits
from isoprefill.models.decoder.decoder import decode, head_weights, project
from isoprefill.models.pretrained import Pretrained, load_pretrained
from isoprefill.models.sources import pinned
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


def test_parity_detects_a_wrong_rope_base(smollm2, torch_smollm2):
    """Were this to fail, the tests above could not see an error either."""
    ids = smollm2.tokenizer.encode(PROMPTS["sentence"])
    wrong_config = dataclasses.replace(smollm2.config, rope_theta=10_000.0)
    wrong = dataclasses.replace(smollm2, config=wrong_config)
    assert np.abs(our_logits(wrong, ids) - torch_logits(torch_smollm2, ids)).max() > 0.1


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
