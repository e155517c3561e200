"""lm-evaluation-harness's `local-completions` against our server, beside its own `hf` on the same weights.

Needs its package (requirements/integrations.lock). If one of these fails, whoever points the harness at this server
publishes numbers that are not those of the model.
"""

import os
import random

import numpy as np
import pytest
import transformers

from http_oracle import MODEL
from huggingface_directory import save_directory
from isoprefill.models.sources.source import find_model
from running_server import RunningServer, running_server

pytest.importorskip("lm_eval")
os.environ["HF_HUB_OFFLINE"] = "1"
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI

SHOTS = (
    "Which word? A fruit: apple. A city: Rome. A colour: red. A number: seven. A bird: wren.\n" * 2
)
QUESTIONS = ("A tree:", "A fish:", "A metal:", "A river that is long:", "A planet:", "A drink:")
CHOICES = (" oak", " eel", " iron and more", " Nile", " Mars", " tea")


@pytest.fixture(scope="module", params=["random", "smollm2-135m"])
def model(request, tmp_path_factory):
    """The served model's name, what the harness loads itself, and a directory with the tokenizer."""
    directory = tmp_path_factory.mktemp("model")
    if request.param == "random":
        saved = str(save_directory(MODEL, directory / "tiny"))
        return saved, {"pretrained": saved}, saved
    path = find_model(request.param).path
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.save_pretrained(directory)
    theirs = {"pretrained": str(path.parent), "gguf_file": path.name, "tokenizer": str(directory)}
    return request.param, theirs, str(directory)


@pytest.fixture(scope="module")
def server(model):
    with running_server(f"--model={model[0]}", "--warmup-tokens=") as one:
        yield one


@pytest.fixture(scope="module")
def theirs(model):
    return HFLM(**model[1], device="cpu", dtype="float32", batch_size=4)


def harness(server: RunningServer, tokenizer: str, **options: object) -> LocalCompletionsAPI:
    return LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions",
        model="default",
        tokenizer=tokenizer,
        max_length=512,
        **options,
    )


def instances(pairs: list[tuple[str, str]]) -> list[Instance]:
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index)
        for index, pair in enumerate(pairs)
    ]


def tokens_scored(server: RunningServer) -> float:
    return server.metric("tokens_total")


@pytest.mark.parametrize("options", [{}, {"tokenized_requests": False}, {"num_concurrent": 3}])
def test_likelihoods_greediness_and_accuracies_are_those_of_hf(server, model, theirs, options):
    """One prompt a request or several, as token ids or as text, one after another or at once."""
    pairs = [
        (shots + question, choice)
        for shots in (SHOTS, "")
        for question in QUESTIONS
        for choice in CHOICES
    ]
    api = harness(server, model[2], batch_size=len(CHOICES), **options)
    ours, expected = (one.loglikelihood(instances(pairs)) for one in (api, theirs))
    scores = np.array([[score for score, _ in found] for found in (ours, expected)])
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-3)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]
    chosen = scores.reshape(2, -1, len(CHOICES)).argmax(axis=2)
    right = np.arange(chosen.shape[1]) % len(CHOICES)
    assert (chosen[0] == right).mean() == (chosen[1] == right).mean()
    assert (chosen[0] == chosen[1]).all()


def test_prompts_that_share_a_beginning_are_computed_once(server, model, theirs):
    """A batch of one question's choices costs its few-shot examples once as a query, and once to score them."""
    generator = random.Random(5)
    shots = "".join(generator.choice("abcdefgh ") for _ in range(200))
    pairs = [(shots + " A word:", choice) for choice in CHOICES]
    api = harness(server, model[2], batch_size=len(CHOICES))
    prompts = [len(api.tok_encode(context + choice)) for context, choice in pairs]
    before = tokens_scored(server)
    ours = api.loglikelihood(instances(pairs))
    computed = tokens_scored(server) - before
    print(f"{sum(prompts)} tokens of prompts, {computed:.0f} computed")
    assert computed < 2.6 * max(prompts) < sum(prompts) / 2
    expected = theirs.loglikelihood(instances(pairs))
    np.testing.assert_allclose(
        [score for score, _ in ours], [score for score, _ in expected], rtol=0, atol=1e-3
    )
