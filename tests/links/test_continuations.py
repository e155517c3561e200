"""Likelihoods of continuations with common contexts, for lm-evaluation-harness: an oracle, the cost, the cuts.

If one of these fails, an evaluation's accuracies are not those of the model, or its shared contexts are computed again.
"""

import numpy as np
import pytest
import torch

import small_models
from huggingface_directory import save_directory
from isoprefill.execution.engine import ScoringEngine
from isoprefill.execution.prefix_cache import REUSE_STEP
from isoprefill.integrations.lm_eval import continuations
from isoprefill.integrations.lm_eval.continuations import Continuation, likelihoods

MODEL = small_models.random_model("llama")
POSITIONS = 512


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    directory = save_directory(MODEL, tmp_path_factory.mktemp("model") / "tiny")
    return ScoringEngine.from_pretrained(directory)


@torch.no_grad()
def expected(one: Continuation) -> tuple[float, bool]:
    """The oracle: transformers on each context and continuation alone, without the last token, as in the harness."""
    inputs = torch.tensor([(one.context + one.tokens)[:-1]])
    logprobs = torch.log_softmax(MODEL(inputs).logits[0, -len(one.tokens) :].double(), -1).numpy()
    tokens = list(one.tokens)
    return logprobs[range(len(tokens)), tokens].sum(), logprobs.argmax(1).tolist() == tokens


def agree(engine: ScoringEngine, asked: list[Continuation]) -> None:
    found = likelihoods(engine, asked)
    for one, likelihood in zip(asked, found, strict=True):
        logprob, is_greedy = expected(one)
        assert likelihood.logprob == pytest.approx(logprob, abs=1e-3)
        assert likelihood.is_greedy == is_greedy


def random_tokens(generator: np.random.Generator, number: int) -> tuple[int, ...]:
    return tuple(generator.integers(0, 256, number).tolist())


@torch.no_grad()
def greedy(context: tuple[int, ...], number: int) -> tuple[int, ...]:
    tokens = list(context)
    for _ in range(number):
        tokens.append(int(MODEL(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tuple(tokens[len(context) :])


@pytest.fixture(scope="module")
def asked() -> list[Continuation]:
    """Three few-shot prefixes of 200 tokens, questions after each, answers of 1 to 5 tokens, one of them greedy."""
    generator = np.random.default_rng(0)
    made = []
    for _ in range(3):
        shots = random_tokens(generator, 200)
        for _ in range(4):
            context = shots + random_tokens(generator, int(generator.integers(1, 30)))
            made += [Continuation(context, random_tokens(generator, n)) for n in (1, 3, 5)]
            made.append(Continuation(context, greedy(context, 3)))
    return [made[index] for index in generator.permutation(len(made))]


def test_likelihoods_and_greediness_are_those_of_transformers(engine, asked):
    agree(engine, asked)
    alone = [Continuation((7,), (8, 9)), Continuation((1, 2, 3), (4,)), Continuation((1, 2), (4,))]
    agree(engine, alone)


def test_a_shared_context_is_computed_once(engine, asked):
    """Of 12 contexts of 200 tokens and more the cache gives all but the first of each prefix, but for REUSE_STEP."""
    engine.clear_prefix_cache()
    before = engine.prefix_cache_stats
    likelihoods(engine, asked)
    after = engine.prefix_cache_stats
    contexts = {one.context for one in asked}
    computed = (after.tokens_asked - before.tokens_asked) - (
        after.tokens_reused - before.tokens_reused
    )
    assert after.tokens_asked - before.tokens_asked == sum(map(len, contexts))
    own = sum(len(context) - 200 for context in contexts)
    assert computed <= 3 * 200 + own + 9 * REUSE_STEP


def test_neither_order_nor_company_matters(engine, asked):
    """What one task's results are must not depend on the tasks beside it, by a bit."""
    whole = dict(zip(asked, likelihoods(engine, asked), strict=True))
    engine.clear_prefix_cache()
    some = asked[::3][::-1]
    for one, likelihood in zip(some, likelihoods(engine, some), strict=True):
        assert likelihood == whole[one]
    first, second, again = likelihoods(engine, [some[0], some[1], some[0]])
    assert first == again != second


def test_batches_are_bounded_and_progress_is_told(engine, asked, monkeypatch):
    whole = likelihoods(engine, asked)
    monkeypatch.setattr(continuations, "TOKENS_AT_ONCE", 500)
    told = []
    found = likelihoods(engine, asked, told.append)
    for one, other in zip(found, whole, strict=True):
        assert one == other
    assert sum(told) == len(asked)


@pytest.mark.parametrize("number", [1, 2, 40])
def test_the_last_token_needs_no_position(engine, number):
    """The harness cuts to one token more than the model's positions; its windows of long texts all are so long."""
    generator = np.random.default_rng(number)
    context = random_tokens(generator, POSITIONS + 1 - number)
    agree(engine, [Continuation(context, random_tokens(generator, number))])
    agree(engine, [Continuation(context[:1], random_tokens(generator, POSITIONS))])
    agree(engine, [Continuation(context, greedy(context, number))])
