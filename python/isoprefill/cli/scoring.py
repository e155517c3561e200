"""Scores the score command's items: all at once, or some after another so that their rows can be printed meanwhile."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from isoprefill.cli.item_files import Item, RefusedItem
from isoprefill.cli.score_rows import Order, Row, rows_of
from isoprefill.execution.engine import STREAM_ITEMS, ScoringEngine
from isoprefill.execution.executor import ProgressCallback
from isoprefill.modes import AlgorithmChoice
from isoprefill.request.errors import RequestError
from isoprefill.request.options import ScoreOptions
from isoprefill.request.result import ScoreResult
from isoprefill.request.scores import score_result
from isoprefill.request.token_request import TokenRequest

CHECKED_TOGETHER = 256  # items; only where one of them is refused is each looked at alone


@dataclasses.dataclass(frozen=True, slots=True)
class ScoringJob:
    """What to score, and how.

    Attributes:
        engine: the model.
        query: text.
        options: the labels among them.
        algorithm: how to compute.
        on_progress: called with (items done, items in all).
        on_refused: called with each item that cannot be scored; None makes the first one an error.
    """

    engine: ScoringEngine
    query: str
    options: ScoreOptions
    algorithm: AlgorithmChoice
    on_progress: ProgressCallback
    on_refused: Callable[[RefusedItem], None] | None

    def ranked(self, items: Sequence[Item], rank_by: Order) -> tuple[list[Row], ScoreResult]:
        """Scores all items in one request; returns their rows in the order of the input, with ranks.

        Raises:
            ValueError: an item cannot be scored, or none is left; names it.
            RequestError: the query or an option is wrong.
        """
        items, request = self._prepared(items)
        if request is None:
            raise ValueError("no item is left that can be scored")
        result = self._result(request, self.on_progress)
        return rows_of(items, request, result, "score" if rank_by == "input" else rank_by), result

    def streamed(self, items: Sequence[Item]) -> Iterator[list[Row]]:
        """Scores some items after another; yields their rows, without ranks, in the order of the input.

        Raises:
            ValueError, RequestError: as `ranked`, when it comes to the items.
        """
        any_left = False
        for start in range(0, len(items), STREAM_ITEMS):
            some, request = self._prepared(items[start : start + STREAM_ITEMS])
            if request is not None:
                any_left = True
                result = self._result(request, self._progress_from(start, len(items)))
                yield rows_of(some, request, result, None)
        if not any_left:
            raise ValueError("no item is left that can be scored")

    def _progress_from(self, start: int, total: int) -> ProgressCallback:
        return lambda done, _: self.on_progress(start + done, total)

    def _prepared(self, items: Sequence[Item]) -> tuple[Sequence[Item], TokenRequest | None]:
        """Returns the items that can be scored, and the request of these."""
        if self.on_refused is None:
            return items, self._request(items)
        good: list[Item] = []
        for start in range(0, len(items), CHECKED_TOGETHER):
            good += self._good(items[start : start + CHECKED_TOGETHER], self.on_refused)
        return good, self._request(good) if good else None

    def _good(self, items: Sequence[Item], on_refused: Callable[[RefusedItem], None]) -> list[Item]:
        try:
            self._preparation(items)
        except RequestError as error:
            if not _is_of_an_item(error):
                raise
        else:
            return list(items)
        good = []
        for item in items:
            try:
                self._preparation([item])
            except RequestError as error:
                if not _is_of_an_item(error):
                    raise
                on_refused(RefusedItem(item.place, _of_an_item(error)))
            else:
                good.append(item)
        return good

    def _request(self, items: Sequence[Item]) -> TokenRequest:
        try:
            return self._preparation(items)
        except RequestError as error:
            if not _is_of_an_item(error):
                raise
            place = items[error.index[0]].place
            raise ValueError(
                f"{place}: {_of_an_item(error)} (--skip-invalid scores the other items)"
            ) from error

    def _preparation(self, items: Sequence[Item]) -> TokenRequest:
        texts = [item.text for item in items]
        return self.engine.preparer.request(self.query, texts, self.options)

    def _result(self, request: TokenRequest, on_progress: ProgressCallback) -> ScoreResult:
        (logprobs,) = self.engine.score_batch(
            [request], algorithm=self.algorithm, on_progress=on_progress
        )
        return score_result(request, logprobs, model=self.engine.model.name)


def _of_an_item(error: RequestError) -> str:
    """Words an error beside the place of its item, which the user knows by that and not by its index."""
    words = RequestError(error.rule, error.field, *error.index[1:], **error.data)
    return words.message("the item")


def _is_of_an_item(error: RequestError) -> bool:
    """Whether one item is at fault and not the query, an option or all of them together."""
    return error.field == "items" and len(error.index) > 0
