"""Reranking in this process, with the methods of sentence-transformers' CrossEncoder."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from isoprefill.execution.engine import ScoringEngine
from isoprefill.models.sources.description import ModelDescription, describe_model
from isoprefill.request.errors import RequestError
from isoprefill.request.scores import score_result
from isoprefill.request.token_request import TokenRequest
from isoprefill.rerank.chosen_model import chosen_model
from isoprefill.rerank.job import RerankJob, Truncation
from isoprefill.rerank.prompted_model import PromptedModel
from isoprefill.rerank.relevances import Relevances
from isoprefill.rerank.settings import RerankPreset, RerankSettings
from isoprefill.rerank.terms import Terms

# Requests that are prepared and scored together: what they hold is bounded, and short ones share prefills.
TOKENS_AT_ONCE = 65_536


class Reranker:
    """Says how relevant documents are to queries; none of them sees another. docs/rerank.md has the presets.

    The scores are those of `/v1/rerank` of a server with the same settings. Not thread-safe: one call at a time.
    """

    def __init__(
        self,
        model: str | Path | ScoringEngine,
        *,
        preset: RerankPreset = "auto",
        template: str | None = None,
        yes: str | int | None = None,
        no: str | int | None = None,
        instruction: str | None = None,
        truncate: bool = False,
        untrusted_text: bool = True,
        **options: Any,
    ) -> None:
        """Loads a model, or takes an engine.

        Args:
            model: what `ScoringEngine.from_pretrained` takes, or a loaded engine.
            preset: how the model is asked; "auto" looks at its files.
            template: a prompt of one's own, in Jinja's language, instead of a preset.
            yes, no: labels, as text of one token or as token ids, instead of the preset's.
            instruction: what to look for, in words; None is the preset's own.
            truncate: cut documents that are too long for the model, at their ends, instead of an error.
            untrusted_text: special tokens that queries and documents spell out are ordinary text.
            **options: of `ScoringEngine.from_pretrained`, if `model` is not an engine.

        Raises:
            ValueError: there is no such model, or the preset does not go with it; says why.
        """
        if isinstance(model, ScoringEngine):
            if options:
                raise ValueError(f"{', '.join(options)}: a loaded engine takes no more options")
            self._engine = model
        else:
            self._engine = ScoringEngine.from_pretrained(model, **options)
        if preset == "none":
            raise ValueError("preset 'none' is for servers; a Reranker needs one")
        settings = RerankSettings(
            preset=preset,
            template=template,
            yes_text=yes if isinstance(yes, str) else None,
            yes_id=yes if isinstance(yes, int) else None,
            no_text=no if isinstance(no, str) else None,
            no_id=no if isinstance(no, int) else None,
        )
        path = self._engine.model.path
        description = ModelDescription() if path is None else describe_model(path)
        made, self.reason = chosen_model(
            settings, description, self._engine.preparer, Terms(untrusted_text=untrusted_text)
        )
        assert made is not None
        self._model: PromptedModel = made
        self._instruction = instruction
        self._truncation = Truncation(to_fit=truncate)

    @property
    def preset(self) -> str:
        """Name of the preset; `reason` says why it is this one."""
        return self._model.preset.name

    def predict(
        self, pairs: Iterable[tuple[str, str]] | tuple[str, str], *, raw_scores: bool = False
    ) -> Float64[np.ndarray, "N"] | float:
        """Returns the relevance of each pair's document to its query. Pairs that share a query are packed together.

        Args:
            pairs: (query, document) each, of any length; or one pair, whose score is then returned alone.
            raw_scores: logarithms instead of numbers between 0 and 1 (docs/rerank.md, `raw_scores`).

        Raises:
            RequestError: (a ValueError) saying which query or document is wrong, its value and the limit.
        """
        if isinstance(pairs, tuple) and len(pairs) == 2 and all(isinstance(x, str) for x in pairs):
            return float(self.predict([pairs], raw_scores=raw_scores)[0])  # type: ignore[index, list-item]
        texts = list(pairs)
        by_query: dict[str, list[int]] = {}
        for index, pair in enumerate(texts):
            if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise ValueError(
                    f"pairs[{index}] must be a query and a document, both of them texts"
                )
            by_query.setdefault(pair[0], []).append(index)
        jobs = [
            self._job(query, [texts[index][1] for index in indices], tuple(indices))
            for query, indices in by_query.items()
        ]
        scores = np.zeros(len(texts))
        with _named("pairs"):
            found = self._relevances(jobs)
        for job, relevances in zip(jobs, found, strict=True):
            scores[list(job.places)] = relevances.raw if raw_scores else relevances.scores
        return scores

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        raw_scores: bool = False,
    ) -> list[dict[str, Any]]:
        """Returns documents by their relevance, best first, each as {"corpus_id", "score"} and on request "text".

        Args:
            query: a text.
            documents: texts; those with nothing in them come last, with score 0.
            top_k: return only so many; None: all.
            return_documents: whether the texts come with them.
            raw_scores: as of `predict`.

        Raises:
            RequestError: (a ValueError) saying which document is wrong, its value and the limit.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        if not documents:
            raise RequestError("empty_items", "documents")
        with _named("documents"):
            (relevances,) = self._relevances([self._job(query, documents)])
        shown = relevances.raw if raw_scores else relevances.scores
        results: list[dict[str, Any]] = []
        for index in relevances.best_first()[:top_k]:
            one: dict[str, Any] = {"corpus_id": index, "score": float(shown[index])}
            if return_documents:
                one["text"] = documents[index]
            results.append(one)
        return results

    def _job(self, query: str, documents: Sequence[str], places: tuple[int, ...] = ()) -> RerankJob:
        if not query:
            raise RequestError("empty_query", "query")
        return RerankJob(
            query=query,
            documents=tuple(documents),
            instruction=self._instruction,
            truncation=self._truncation,
            places=places,
        )

    def _relevances(self, jobs: Sequence[RerankJob]) -> list[Relevances]:
        """Scores jobs, several in a batch as long as they are small."""
        found: list[Relevances] = []
        batch: list[tuple[RerankJob, TokenRequest | None]] = []
        tokens = 0
        for job in jobs:
            request = self._model.request(job)
            size = 0 if request is None else request.num_tokens
            if batch and tokens + size > TOKENS_AT_ONCE:
                found += self._scored(batch)
                batch, tokens = [], 0
            batch.append((job, request))
            tokens += size
        return found + self._scored(batch)

    def _scored(self, batch: Sequence[tuple[RerankJob, TokenRequest | None]]) -> list[Relevances]:
        requests = [request for _, request in batch if request is not None]
        left = iter(self._engine.score_batch(requests) if requests else ())
        name = self._engine.model.name
        return [
            self._model.relevances(
                job, None if request is None else score_result(request, next(left), model=name)
            )
            for job, request in batch
        ]


@contextlib.contextmanager
def _named(items: str) -> Iterator[None]:
    """Words the errors for a caller who calls the items something else."""
    try:
        yield
    except RequestError as error:
        error.args = (error.message(items),)
        raise
