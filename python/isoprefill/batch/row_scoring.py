"""Scores rows: groups them by query, gives those that cannot be scored an error, and hands the others to the engine."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32

from isoprefill.batch.query_runs import first_places, query_runs
from isoprefill.batch.scoring_settings import ScoringSettings
from isoprefill.batch.work_counts import WorkCounts
from isoprefill.execution.engine import ScoringEngine
from isoprefill.execution.packing import full_packs, item_groups
from isoprefill.request.errors import RequestError
from isoprefill.request.options import ScoreOptions
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.scores import score_result
from isoprefill.request.token_request import TokenRequest


@dataclasses.dataclass(slots=True, eq=False)
class RowScores:
    """What came of N rows, in their order.

    Attributes:
        scores: [N, W] as in `ScoreResult.scores`, the W of the row with most; NaN where there is none.
        widths: [N] how many of them each row has; 0 with an error.
        num_tokens: [N] tokens whose log-probabilities a likelihood sums; otherwise those of the item. 0 with an error.
        errors: the code of the `/v1/score` API, or None.
        work: what it took.
    """

    scores: Float64[np.ndarray, "N W"]
    widths: Int32[np.ndarray, "N"]
    num_tokens: Int32[np.ndarray, "N"]
    errors: list[str | None]
    work: WorkCounts


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A request and the rows that each of its items stands for."""

    request: TokenRequest
    rows: Int32[np.ndarray, "n"]


class RowScorer:
    """Scores rows with one engine."""

    def __init__(
        self, engine: ScoringEngine, settings: ScoringSettings, *, label_column: bool = False
    ) -> None:
        """Takes the engine.

        Args:
            engine: the model.
            settings: what is read of it.
            label_column: whether each row has labels of its own.

        Raises:
            ValueError: labels do not fit the model, or one is empty; says which.
        """
        self._engine, self._settings = engine, settings
        labels, classes = None, engine.model.config.classes
        if settings.labels and label_column:
            raise ValueError("give either labels or label-column, not both")
        if label_column and classes is not None:
            raise ValueError(
                "label-column needs a language-model head, which this classification model has not"
            )
        if settings.softmax and not (settings.labels or label_column or classes is not None):
            raise ValueError("softmax needs labels, a label-column, or a classification model")
        if settings.labels:
            labels = engine.preparer.labels(settings.labels)
        self._options = ScoreOptions(
            labels=labels,
            apply_softmax=settings.softmax,
            temperature=settings.temperature,
            item_first=settings.item_first,
        )

    @property
    def names(self) -> list[str]:
        """What the scores of a row are called, if they have names: labels, or a model's classes."""
        classes = self._engine.model.config.classes
        return list(self._settings.labels if classes is None else classes.names)

    def score(
        self, queries: Sequence[Any], items: Sequence[Any], labels: Sequence[Any] | None = None
    ) -> RowScores:
        """Scores N rows; the query of those that follow one another with an equal one is computed once if they fit.

        Args:
            queries: text or token ids each; anything else is an error of its row.
            items: the same.
            labels: of each row: a text, or a list of texts. None: those of the settings.

        Raises:
            MissingLogprobError, NotEnoughMemoryError: see `ScoringEngine.score_batch`.
        """
        errors: list[str | None] = [None] * len(queries)
        parts: list[_Part] = []
        copies = np.arange(len(queries), dtype=np.int32)
        for begin, end in query_runs(queries):
            rows = self._plain(queries, items, labels, range(begin, end), errors)
            if self._settings.deduplicate:
                rows = self._distinct(items, labels, rows, copies)
            parts += self._parts(queries[begin], items, labels, rows, errors)
        answers = self._engine.score_batch(
            [part.request for part in parts], algorithm=self._settings.algorithm
        )
        found = self._gathered(len(queries), parts, answers, errors)
        if self._settings.deduplicate:
            found.scores, found.widths = found.scores[copies], found.widths[copies]
            found.num_tokens = found.num_tokens[copies]
            found.errors = [errors[place] for place in copies]
        return found

    def _plain(
        self,
        queries: Sequence[Any],
        items: Sequence[Any],
        labels: Sequence[Any] | None,
        rows: range,
        errors: list[str | None],
    ) -> list[int]:
        """Returns the rows whose cells are of the right kind; the others get an error."""
        query = queries[rows.start]
        if (code := _cell_error(query, "query")) is not None:
            errors[rows.start : rows.stop] = [code] * len(rows)
            return []
        good = []
        for row in rows:
            item = items[row]
            # An empty item is found here, before the tokenizer sees the group.
            code = None if type(item) is str and item else _cell_error(item, "items")
            if code is None and labels is not None:
                code = self._label_error(labels[row])
            if code is None:
                good.append(row)
            else:
                errors[row] = code
        return good

    def _label_error(self, value: Any) -> str | None:
        texts = [value] if isinstance(value, str) else value
        if not (isinstance(texts, list) and texts and all(isinstance(one, str) for one in texts)):
            return "invalid_labels_type"
        try:
            self._engine.preparer.labels(texts)
        except RequestError as error:
            return error.code
        return None

    def _distinct(
        self,
        items: Sequence[Any],
        labels: Sequence[Any] | None,
        rows: list[int],
        copies: Int32[np.ndarray, "N"],
    ) -> list[int]:
        """Returns the first of the rows that are equal, and notes whose copies the others are."""
        values = [(items[row], None if labels is None else labels[row]) for row in rows]
        kept = []
        for place, first in enumerate(first_places(values)):
            copies[rows[place]] = rows[first]
            if first == place:
                kept.append(rows[place])
        return kept

    def _parts(
        self,
        query: Any,
        items: Sequence[Any],
        labels: Sequence[Any] | None,
        rows: list[int],
        errors: list[str | None],
    ) -> list[_Part]:
        """Returns the request of these rows of one query, without those that it refuses."""
        if not rows:
            return []
        options = self._options
        if labels is not None:
            lists = [[labels[row]] if isinstance(labels[row], str) else labels[row] for row in rows]
            try:
                made = self._engine.preparer.labels(lists)
            except RequestError as error:
                if len(rows) == 1:
                    errors[rows[0]] = error.code
                    return []
                # Each is possible by itself, but all of them, padded to the longest, are too many.
                return self._halves(query, items, labels, rows, errors)
            options = dataclasses.replace(options, labels=made)
        try:
            request = self._engine.preparer.request(query, [items[row] for row in rows], options)
        except RequestError as error:
            if not (error.field == "items" and error.index) or len(rows) == 1:
                for row in rows:
                    errors[row] = error.code
                return []
            query = self._query_tokens(query)
            if isinstance(query, str):
                for row in rows:
                    errors[row] = query
                return []
            # Few are at fault: look for them by halves.
            return self._halves(query, items, labels, rows, errors)
        return [_Part(request, np.asarray(rows, np.int32))]

    def _halves(
        self,
        query: Any,
        items: Sequence[Any],
        labels: Sequence[Any] | None,
        rows: list[int],
        errors: list[str | None],
    ) -> list[_Part]:
        """Returns the requests of these rows, of which there are at least two, each half by itself."""
        half = len(rows) // 2
        return [
            *self._parts(query, items, labels, rows[:half], errors),
            *self._parts(query, items, labels, rows[half:], errors),
        ]

    def _query_tokens(self, query: Any) -> list[int] | str:
        """Returns the query as token ids, not to tokenise it again and again, or the code of what is wrong with it."""
        if isinstance(query, list):
            return query
        alone = ScoreOptions(item_first=self._options.item_first)
        try:
            return self._engine.preparer.request(query, [[0]], alone).query.tolist()
        except RequestError as error:
            return error.code

    def _gathered(
        self,
        num_rows: int,
        parts: Sequence[_Part],
        answers: Sequence[RequestLogprobs],
        errors: list[str | None],
    ) -> RowScores:
        results = [
            score_result(part.request, answer, model="")
            for part, answer in zip(parts, answers, strict=True)
        ]
        columns = [one.scores if one.scores.ndim == 2 else one.scores[:, None] for one in results]
        width = max((one.shape[1] for one in columns), default=max(1, len(self.names)))
        found = RowScores(
            np.full((num_rows, width), np.nan),
            np.zeros(num_rows, np.int32),
            np.zeros(num_rows, np.int32),
            errors,
            self._work(parts, answers),
        )
        for part, result, scores in zip(parts, results, columns, strict=True):
            found.scores[part.rows, : scores.shape[1]] = scores
            if result.num_labels is None:
                found.widths[part.rows] = 1
                found.num_tokens[part.rows] = result.num_tokens
            else:
                found.widths[part.rows] = result.num_labels
                found.num_tokens[part.rows] = part.request.item_lens
        return found

    def _work(self, parts: Sequence[_Part], answers: Sequence[RequestLogprobs]) -> WorkCounts:
        work = WorkCounts()
        packed = []
        for part, answer in zip(parts, answers, strict=True):
            request, number = part.request, len(part.request.items)
            work.items_computed += number
            work.item_tokens += int(request.item_lens.sum())
            work.query_tokens += request.query.size * number
            if answer.algorithm == "serial" or request.options.item_first:
                work.query_tokens_computed += request.query.size * number
            elif answer.algorithm == "packed":
                packed.append(request)
            else:
                work.query_tokens_computed += request.query.size - answer.cached_tokens
        for pack in full_packs(item_groups(packed), self._engine.pack_tokens):
            work.query_tokens_computed += sum(group.prefix.size for group in pack)
        return work


def _cell_error(value: Any, field: str) -> str | None:
    """Returns the code of a cell that can be neither text nor token ids; None: the preparer judges the rest."""
    if value is None:
        return f"missing_{field}"
    if not isinstance(value, str | list):
        return f"invalid_{field}_type"
    if field == "items" and not len(value):
        return "empty_item"
    return None
