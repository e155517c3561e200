"""Scores of classification models: logits, probabilities and hidden states equal transformers', item by item.

If one of these fails, a reranker with a classification head orders items by the numbers of another model, or by those
of an item's neighbours.
"""

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gguf_conversion
import model_families
import pairwise
import small_models
from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill import LabelSets, RequestError, ScoreOptions, ScoringEngine
from isoprefill.models.config.architectures import ARCHITECTURES
from isoprefill.models.decoder.head import class_logits_at
from isoprefill.modes import Algorithm
from unpacked_params import unpacked

RANDOM = np.random.default_rng(0)
QUERY = RANDOM.integers(1, 250, 40).tolist()
ITEMS = [RANDOM.integers(1, 250, length).tolist() for length in [5, 1, 9, 2, 3, 17, 33]]
DELIMITER_ID = 0
ALGORITHMS = get_args(Algorithm)
TOLERANCE = 1e-4

# Name: classes, bias of the head, further arguments of the configuration.
HEADS = {
    "one class": (1, False, {}),
    "two classes, bias": (2, True, {"id2label": {0: "no", 1: "yes"}}),
    "five independent classes": (5, False, {"problem_type": "multi_label_classification"}),
}


@functools.cache
def oracle(family: str, head: str, dtype: str = "float32") -> tuple[torch.nn.Module, Path]:
    number, bias, overrides = HEADS[head]
    model = small_models.random_classifier(family, bias, num_labels=number, **overrides)
    directory = Path(tempfile.mkdtemp())
    save_directory(model, directory, dtype=getattr(torch, dtype))
    return model, directory


@functools.cache
def engine(family: str, head: str, source: str = "directory", dtype: str = "float32"):
    model, directory = oracle(family, head, dtype)
    if source == "gguf":
        names = list(model.config.id2label.values())
        arch = gguf_conversion.GGUF_NAMES.get(family, family)
        path = save_gguf(
            model,
            directory / "model.gguf",
            extra_metadata={f"{arch}.classifier.output_labels": names},
        )
        return ScoringEngine.from_pretrained(path, dtype)
    return ScoringEngine.from_pretrained(directory, dtype)


@torch.inference_mode()
def expected(family: str, head: str, texts: Sequence[list[int]], dtype: str = "float32"):
    """Logits and last hidden states by transformers, one text at a time."""
    model, _ = oracle(family, head, dtype)
    logits, states = [], []
    for text in texts:
        out = model(torch.tensor([text]), output_hidden_states=True)
        logits.append(out.logits[0].numpy())
        states.append(out.hidden_states[-1][0, -1].numpy())
    return np.stack(logits), np.stack(states)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    difference = np.abs(found - wanted)
    assert difference.max() <= 1e-3
    assert difference.mean() <= 1e-4


# transformers has no such head for Granite. Of mixtures of experts one is below: the head knows nothing of them.
FAMILIES = [
    family
    for family in model_families.FAMILIES
    if family != "granite" and not ARCHITECTURES[family].mixture
]
CASES = pairwise.cases(
    {
        "family": FAMILIES,
        "head": list(HEADS),
        "source": ["directory", "gguf"],
        "algorithm": ALGORITHMS,
        "item_first": [False, True],
    }
)
CASES.append(CASES[0] | {"family": "qwen3_moe", "source": "gguf"})


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_logits_and_states_equal_transformers(case):
    """A dropped bias, a swapped class or another row than the last would be seen here."""
    family, head, first = case["family"], case["head"], case["item_first"]
    result = engine(family, head, case["source"]).score(
        QUERY,
        ITEMS,
        algorithm=case["algorithm"],
        item_first=first,
        return_pooled_hidden_states=True,
    )
    texts = [item + QUERY if first else QUERY + item for item in ITEMS]
    logits, states = expected(family, head, texts)
    close(result.scores, logits)
    close(result.pooled_hidden_states, states)
    assert result.classes.names == tuple(oracle(family, head)[0].config.id2label.values())


@pytest.mark.parametrize("delimiter", ["none", "hidden", "prefix_first"])
def test_algorithms_agree(delimiter):
    """Packed, extended, cached and alone: whichever the engine chooses, the logits are the same."""
    scorer = engine("qwen3", "two classes, bias")
    options = {
        "delimiter": delimiter,
        "delimiter_id": None if delimiter == "none" else DELIMITER_ID,
        "return_pooled_hidden_states": True,
    }
    serial = scorer.score(QUERY, ITEMS, algorithm="serial", **options)
    for algorithm in ("packed", "packed_extend", "packed_extend", "prefill_extend"):
        result = scorer.score(QUERY, ITEMS, algorithm=algorithm, **options)
        np.testing.assert_allclose(result.scores, serial.scores, atol=TOLERANCE)
        np.testing.assert_allclose(
            result.pooled_hidden_states, serial.pooled_hidden_states, atol=TOLERANCE
        )
    assert result.cached_tokens >= len(QUERY)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("algorithm", ["packed", "packed_extend"])
def test_neighbours_change_nothing(dtype, algorithm):
    """Other values, lengths, order and number of neighbours: every bit of an item stays."""
    scorer = engine("llama", "two classes, bias", dtype=dtype)

    def read(items, place):
        result = scorer.score(QUERY, items, algorithm=algorithm, return_pooled_hidden_states=True)
        return result.scores[place].tobytes() + result.pooled_hidden_states[place].tobytes()

    item = ITEMS[2]
    alone = read([item], 0)
    random = np.random.default_rng(1)
    for number in (1, 3, 20, 90):
        neighbours = [
            random.integers(1, 250, random.integers(1, 40)).tolist() for _ in range(number)
        ]
        place = int(random.integers(0, number + 1))
        assert read([*neighbours[:place], item, *neighbours[place:]], place) == alone, number
    causal = scorer.score(QUERY, [ITEMS[6], item], isolation="causal", algorithm="packed")
    assert np.abs(causal.scores[1] - np.frombuffer(alone[:16], np.float64)).max() > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_probabilities(head):
    """Softmax over the classes; sigmoid where there is one class, as CrossEncoder has it, or independent ones."""
    scorer = engine("qwen2", head)
    logits = torch.from_numpy(scorer.score(QUERY, ITEMS).scores)
    for temperature in (1.0, 0.5):
        found = scorer.score(QUERY, ITEMS, apply_softmax=True, temperature=temperature).scores
        scaled = logits / temperature
        wanted = torch.softmax(scaled, 1) if head == "two classes, bias" else torch.sigmoid(scaled)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_head_without_packed_weights(dtype):
    """On every other device than a CPU, XLA multiplies: the same logits, bias included."""
    scorer = engine("qwen2", "two classes, bias", dtype=dtype)
    params = scorer.model.params
    states = scorer.score(QUERY, ITEMS, return_pooled_hidden_states=True).pooled_hidden_states
    hidden, at = jnp.asarray(states, jnp.dtype(dtype)), jnp.asarray([6, 0, 3], jnp.int32)
    packed, plain = (class_logits_at(one, hidden, at) for one in (params, unpacked(params)))
    np.testing.assert_allclose(packed, plain, atol=1e-5)
    np.testing.assert_array_equal(packed, scorer.score(QUERY, ITEMS).scores[[6, 0, 3]])


def test_bfloat16_is_near_float32_on_the_same_weights():
    head = "two classes, bias"
    scorer = engine("qwen2", head, dtype="bfloat16")
    found = scorer.score(QUERY, ITEMS, apply_softmax=True).scores
    logits, _ = expected("qwen2", head, [QUERY + item for item in ITEMS], "bfloat16")
    difference = np.abs(found - torch.softmax(torch.from_numpy(logits), 1).numpy())
    assert difference.max() <= 0.02
    assert difference.mean() <= 0.01


def test_best_first_is_by_the_relevant_class():
    """Of two classes the one named yes, else the second; saturated probabilities still have an order."""
    scorer = engine("llama", "two classes, bias")
    result = scorer.score(QUERY, ITEMS)
    margin = result.scores[:, 1] - result.scores[:, 0]
    assert result.best_first() == np.argsort(-margin).tolist()
    one = engine("llama", "one class").score(QUERY, ITEMS, apply_softmax=True)
    assert one.best_first() == np.argsort(-one.logprobs[:, 0]).tolist()


def test_several_requests_share_a_pack():
    """score_batch hands every request its own logits, and states only to those that asked."""
    scorer = engine("llama", "two classes, bias")
    options = ScoreOptions(return_pooled_hidden_states=True)
    requests = [
        scorer.preparer.request(QUERY, ITEMS[:3]),
        scorer.preparer.request(QUERY[:7], ITEMS[3:], options),
    ]
    plain, pooled = scorer.score_batch(requests, algorithm="packed")
    np.testing.assert_array_equal(plain.logprobs, scorer.score(QUERY, ITEMS[:3]).scores)
    alone = scorer.score(QUERY[:7], ITEMS[3:], options=options)
    np.testing.assert_array_equal(pooled.logprobs, alone.scores)
    np.testing.assert_array_equal(pooled.pooled_hidden_states, alone.pooled_hidden_states)
    assert plain.pooled_hidden_states is None


def test_states_of_labels_are_those_of_the_decoder():
    """On a language model too: the head times the state gives the labels' logits."""
    model = small_models.random_model("llama")
    directory = save_directory(model, Path(tempfile.mkdtemp()))
    result = ScoringEngine.from_pretrained(directory).score(
        QUERY, ITEMS, [3, 99], return_pooled_hidden_states=True
    )
    with torch.inference_mode():
        logits = torch.from_numpy(result.pooled_hidden_states) @ model.lm_head.weight.T
    found = torch.log_softmax(logits.double(), 1)[:, [3, 99]].numpy()
    np.testing.assert_allclose(result.logprobs, found, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"label_token_ids": [3]}, "label_token_ids"),
        ({"label_token_ids": LabelSets.shared([3])}, "label_token_ids"),
        ({"return_token_logprobs": True}, "return_token_logprobs"),
    ],
)
def test_what_needs_a_language_model_head_is_refused(options, param):
    """In one line that says what to do instead."""
    with pytest.raises(RequestError, match="leave it out") as refused:
        engine("llama", "one class").score(QUERY, ITEMS, **options)
    assert (refused.value.code, refused.value.param) == ("classification_model", param)
    assert "\n" not in str(refused.value)


def test_what_needs_a_classification_head_is_refused(tmp_path):
    model = small_models.random_model("llama", num_hidden_layers=1)
    scorer = ScoringEngine.from_pretrained(save_directory(model, tmp_path))
    for options, param in (
        ({"apply_softmax": True}, "label_token_ids"),
        ({"return_pooled_hidden_states": True}, "return_pooled_hidden_states"),
    ):
        with pytest.raises(RequestError, match="label_token_ids") as refused:
            scorer.score(QUERY, ITEMS, **options)
        assert (refused.value.code, refused.value.param) == ("missing_label_token_ids", param)
