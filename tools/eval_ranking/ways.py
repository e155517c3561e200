"""The ways to score a list's candidates, by name."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from eval_ranking.lists import PROMPTS, RankedList
from isoprefill import ScoringEngine
from isoprefill.models.sources.description import describe_model
from isoprefill.request.scores import score_result
from isoprefill.rerank.chosen_model import chosen_model
from isoprefill.rerank.job import RerankJob
from isoprefill.rerank.prompted_model import PromptedModel
from isoprefill.rerank.settings import RerankSettings
from isoprefill.rerank.terms import Terms

Scores = Mapping[str, np.ndarray]
# A question with an answer of one word, and the same with the query after the document.
YES_OR_NO = "Query: {{ query }}\nText: {{ document }}\nIs the text right for the query?\nAnswer:"


def likelihoods(engine: ScoringEngine, one: RankedList, isolation: str) -> Scores:
    """By what candidates are after the query, and what they are without it."""
    prompts = PROMPTS[one.task]
    items = [f" {text}" for text in one.candidates]
    after = engine.score(prompts.before + one.query + prompts.after, items, isolation=isolation)
    without = engine.score(prompts.after.lstrip(".\n "), items, isolation=isolation)
    return {
        "likelihood": after.scores,
        "per token": after.mean_logprobs,
        "minus without the query": after.scores - without.scores,
        "the same per token": after.mean_logprobs - without.mean_logprobs,
    }


def query_likelihood(engine: ScoringEngine, one: RankedList, isolation: str) -> Scores:
    """By what the query is after each candidate; candidates cannot see each other then."""
    if isolation == "causal":
        return {}
    prompts = PROMPTS[one.task]
    items = [prompts.item.format(text) for text in one.candidates]
    found = engine.score(prompts.query.format(one.query), items, item_first=True)
    return {"query likelihood, item_first": found.scores}


def prompted(name: str, engine: ScoringEngine, one: RankedList, isolation: str) -> Scores:
    """By a preset of rerank or a prompt of one's own, as /v1/rerank does it."""
    model = _prompted_model(engine, name)
    job = RerankJob(
        query=one.query,
        documents=one.candidates,
        instruction=PROMPTS[one.task].instruction if model.template.takes_instruction else None,
    )
    request = model.request(job)
    assert request is not None
    options = dataclasses.replace(request.options, isolation=isolation)
    request = dataclasses.replace(request, options=options)
    (found,) = engine.score_batch([request])
    result = score_result(request, found, model=engine.model.name)
    return {f"rerank: {name}": model.relevances(job, result).raw}


@functools.cache
def _prompted_model(engine: ScoringEngine, name: str) -> PromptedModel:
    assert engine.model.path is not None
    settings = (
        RerankSettings(template=YES_OR_NO) if name == "yes or no" else RerankSettings(preset=name)  # type: ignore[arg-type]
    )
    description = describe_model(engine.model.path)
    model, _ = chosen_model(settings, description, engine.preparer, Terms())
    assert model is not None
    return model


WAYS: tuple[Callable[[ScoringEngine, RankedList, str], Scores], ...] = (
    likelihoods,
    query_likelihood,
    functools.partial(prompted, "query-likelihood"),
    functools.partial(prompted, "yes or no"),
    functools.partial(prompted, "chat"),
)
