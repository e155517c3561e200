"""Scores equal PyTorch's on the same weights, in one process: every algorithm, delimiter mode and family.

With bfloat16 the weights are, and PyTorch computes in float32 on them: its own bfloat16 scores differ by 0.025 between
packed and one by one (SmolLM2), which is more than the gate.

The references are transformers one item at a time, transformers with a dense mask over the packed tokens, and
flex_attention with the same rule; their masks are written from the definition, not taken from isoprefill. If one of
these fails, scores are not what the published systems, or scoring query + item alone, would give.
"""

import copy
import functools
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import transformers

import model_families
import pairwise
import small_models
from huggingface_directory import save_directory
from isoprefill import ScoringEngine
from isoprefill.modes import Algorithm
from isoprefill_torch import METHODS, CausalLM, TorchScorer, extend, load_model

ALGORITHMS = get_args(Algorithm)
DELIMITER_ID = 299  # in no text, and in no list of token ids below
LABELS = [7, 65, 110, 256]

# float32: of log-probabilities. bfloat16: of probabilities, the gate of the public RFC.
MAX_DIFF = {"float32": 1e-3, "bfloat16": 0.02}
MEAN_DIFF = {"float32": 1e-4, "bfloat16": 0.01}

# The others are in test_family_parity: isoprefill_torch takes no soft caps of scores and no windows.
FAMILIES = [family for family in model_families.FAMILIES if family not in model_families.SETTINGS]
AXES = {
    "count": [1, 2, 4, 8, 200],
    "family": FAMILIES,
    "reference": ["serial", "isolated-dense", "flex"],
    "delimiter": ["none", "hidden", "prefix_first"],
    "algorithm": ALGORITHMS,
    "scores": ["likelihood", "labels"],
    "inputs": ["text", "tokens"],
    "dtype": ["float32", "bfloat16"],
}
CASES = pairwise.cases(AXES)


@functools.cache
def directory(family: str, dtype: str) -> Path:
    path = Path(tempfile.mkdtemp())
    model = small_models.random_model(family)
    return save_directory(model, path, dtype=getattr(torch, dtype))


@functools.cache
def engine(family: str, dtype: str) -> ScoringEngine:
    return ScoringEngine.from_pretrained(directory(family, dtype), dtype)


@functools.cache
def torch_scorer(family: str, dtype: str) -> TorchScorer:
    torch.set_num_threads(1)
    return TorchScorer(load_model(directory(family, dtype)))


@functools.cache
def torch_tokenizer(family: str) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(directory(family, "float32"))


def request(count: int, inputs: str):
    """A query and ragged items of 1 to 12 tokens, as text or as token ids."""
    random = np.random.default_rng(count)
    lens = [11, *random.integers(1, 13, count)]
    if inputs == "tokens":
        query, *items = (random.integers(0, DELIMITER_ID, length).tolist() for length in lens)
    else:
        letters = np.array(list("abcdefghij klmnopqrstuvwxyz.!?"))
        query, *items = ("".join(random.choice(letters, length)) for length in lens)
    return query, items


def ids(family: str, value):
    return torch_tokenizer(family).encode(value) if isinstance(value, str) else value


def gate(result, expected: np.ndarray, dtype: str, *, normalise: bool = False) -> None:
    """Compares log-probabilities: [N] likelihoods, or [N, L] of labels.

    With bfloat16 probabilities are compared: per token for likelihoods; of labels, which may be normalised over the
    labels lest they all lie next to 0.
    """
    ours = result.logprobs
    assert ours.shape == expected.shape
    if dtype == "bfloat16" and ours.ndim == 1:
        ours, expected = (np.exp(x / result.num_tokens) for x in (ours, expected))
    elif dtype == "bfloat16":
        ours, expected = np.exp(ours), np.exp(expected)
        if normalise:
            ours, expected = (x / x.sum(axis=1, keepdims=True) for x in (ours, expected))
    diff = np.abs(ours - expected)
    assert diff.max() <= MAX_DIFF[dtype]
    assert diff.mean() <= MEAN_DIFF[dtype]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_scores_equal_pytorch(case):
    family, dtype, delimiter = case["family"], case["dtype"], case["delimiter"]
    query, items = request(case["count"], case["inputs"])
    labels = LABELS if case["scores"] == "labels" else None
    delimiter_id = None if delimiter == "none" else DELIMITER_ID
    result = engine(family, dtype).score(
        query,
        items,
        labels,
        algorithm=case["algorithm"],
        delimiter=delimiter,
        delimiter_id=delimiter_id,
    )
    expected = torch_scorer(family, dtype).logprobs(
        ids(family, query),
        [ids(family, item) for item in items],
        labels,
        method=case["reference"],
        delimiter=delimiter,
        delimiter_id=delimiter_id,
    )
    gate(result, expected, dtype, normalise=True)


@pytest.mark.parametrize("scores", ["likelihood", "labels"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_plain_causal_attention_is_contaminated(algorithm, scores):
    """The comparison itself: it must tell packed scoring without a mask from packed scoring with one."""
    query, items = request(8, "tokens")
    labels = LABELS if scores == "labels" else None
    ours = engine("llama", "float32").score(query, items, labels, algorithm=algorithm).logprobs
    causal = torch_scorer("llama", "float32").logprobs(query, items, labels, method="causal")
    diff = np.abs(ours - causal).reshape(len(items), -1).max(axis=1)
    assert diff[0] <= MAX_DIFF["float32"]  # nobody is before the first item
    assert (diff[1:] > 10 * MAX_DIFF["float32"]).all()


@pytest.mark.parametrize("delimiter", ["none", "hidden"])
@pytest.mark.parametrize("scores", ["likelihood", "labels"])
def test_causal_mode_is_plain_causal_attention(scores, delimiter):
    """On request the engine reproduces the contaminated scores of back ends without a mask."""
    query, items = request(8, "tokens")
    labels = LABELS if scores == "labels" else None
    modes = {"delimiter": delimiter, "delimiter_id": None if delimiter == "none" else DELIMITER_ID}
    ours = engine("llama", "float32").score(query, items, labels, isolation="causal", **modes)
    causal = torch_scorer("llama", "float32").logprobs(
        query, items, labels, method="causal", **modes
    )
    gate(ours, causal, "float32")


@pytest.mark.parametrize("delimiter", ["none", "hidden", "prefix_first"])
@pytest.mark.parametrize("scores", ["likelihood", "labels"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_references_agree_with_each_other(family, scores, delimiter):
    """Else an error of the oracle would hide one of ours, and a benchmark would time wrong scores."""
    query, items = request(8, "tokens")
    labels = LABELS if scores == "labels" else None
    score = functools.partial(
        torch_scorer(family, "float32").logprobs,
        query,
        items,
        labels,
        delimiter=delimiter,
        delimiter_id=DELIMITER_ID,
    )
    serial = score(method="serial")
    isolated = set(METHODS) - {"serial", "causal", "leaky-first-item", "flashinfer"}
    if delimiter == "prefix_first":
        isolated.remove("flashinfer-rule")  # always "hidden"
    for method in sorted(isolated):
        for batch_size in (None, 3):
            diff = np.abs(score(method=method, batch_size=batch_size) - serial)
            assert diff.max() <= 1e-4, (method, batch_size)
    for method in ("causal", "leaky-first-item"):
        assert np.abs(score(method=method) - serial).max() > 1e-2


def test_a_kept_prefix_is_computed_once_and_scores_the_same(monkeypatch):
    """Else a benchmark of warm queries would time cold ones, or the query of another request."""
    scorer = TorchScorer(load_model(directory("llama", "float32")), keep_prefix=True)
    computed, prefill = [], extend.prefill

    def counting(model, tokens):
        computed.append(list(tokens))
        return prefill(model, tokens)

    monkeypatch.setattr(extend, "prefill", counting)
    query, items = request(8, "tokens")
    others = [query, query, query[1:], query]
    for one in others:
        expected = scorer.logprobs(one, items, method="serial")
        np.testing.assert_allclose(
            scorer.logprobs(one, items, method="extend"), expected, atol=1e-4
        )
    assert computed == [query, query[1:], query]


def test_extend_without_the_cpu_kernel_is_the_same():
    """On other devices the two parts of the attention are computed by other code."""
    from isoprefill_torch.extend import attention_with_lse, plain_attention_with_lse

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=generator) for _ in range(3))
    for causal in (False, True):
        fused, plain = (
            attend(q, k, v, 0.3, causal=causal)
            for attend in (attention_with_lse, plain_attention_with_lse)
        )
        for one, other in zip(fused, plain, strict=True):
            torch.testing.assert_close(one, other)


TEXT = (
    "The capital of France is",
    [
        " Paris",
        " London",
        " Berlin, which lies on the river Spree and has more bridges than Venice",
        " banana",
        "!",
        " the city that every traveller who comes from the north knows",
    ],
)
SMOLLM2_LABELS = [" yes", " no", ".", " Paris", ","]


SMOLLM2 = "smollm2-135m"


@functools.cache
def torch_smollm2() -> CausalLM:
    return load_model(SMOLLM2)  # transformers takes 18 CPU seconds for a GGUF


def smollm2(dtype: str) -> tuple[ScoringEngine, TorchScorer]:
    """The engine, and PyTorch in float32 with the weights that the engine's dtype has."""
    model = copy.deepcopy(torch_smollm2())
    # Not the buffers: RoPE's are float32 in every dtype.
    for weight in model.torch_model.parameters():
        weight.data = weight.data.to(getattr(torch, dtype)).float()
    return ScoringEngine.from_pretrained(SMOLLM2, dtype), TorchScorer(model)


@pytest.mark.parametrize(
    ("dtype", "reference", "delimiter"),
    [("float32", "flashinfer-rule", "hidden"), ("bfloat16", "isolated-dense", "none")],
)
def test_scores_of_real_weights_equal_pytorch(dtype, reference, delimiter):
    scorer, torch_one = smollm2(dtype)
    encode = (
        scorer.model.tokenizer.encode
    )  # transformers' own splits digits otherwise; here are none
    query, items = TEXT
    labels = [scorer.label_id(label) for label in SMOLLM2_LABELS]
    modes = {"delimiter": delimiter, "delimiter_id": None if delimiter == "none" else 2}
    for wanted in (labels, None):
        expected = torch_one.logprobs(
            encode(query), [encode(item) for item in items], wanted, method=reference, **modes
        )
        for algorithm in ("packed", "packed_extend", "prefill_extend"):
            result = scorer.score(query, items, wanted, algorithm=algorithm, **modes)
            gate(result, expected, dtype)
            if wanted:
                gate(result, expected, dtype, normalise=True)
        if dtype == "bfloat16" and wanted:  # the probabilities that the gate is for
            assert 0.1 < np.exp(expected).max() < 0.9
