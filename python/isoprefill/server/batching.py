"""Which waiting requests go into the next prefill.

Requests wait in a queue. A batch is filled from the front up to the token budget. A request too large for one batch
gives a slice of its items to each of several and goes to the end of the queue in between, so that a small request
never waits for the whole of a large one. Requests further back may use room that those before them cannot; the
first in the queue is in every batch, so none waits forever. A slice computes the query once more, so it holds about as
many tokens of items as of the query, unless they are the last: the first in line may exceed the budget for that, the
others wait.

With a budget of 12, query 2 and items of 2: A (8 items), then B (1 item)

    batch 1: A's items 1-5 (2 + 10)         line: B, A
    batch 2: B (2 + 2), A's items 6-8 (2 + 6)
"""

import collections
import dataclasses

import numpy as np

from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server.protocol import Step
from isoprefill.server.settings import BatchSettings


@dataclasses.dataclass(eq=False, slots=True)
class Waiting:
    """A request in line.

    Attributes:
        id: the protocol's number.
        request: all of it.
        arrived: seconds of the monotonic clock.
        costs: tokens that each item adds to a batch.
        next_item: the first item that is not scored yet.
        parts: what came back for the items before it.
        steps: the prefills that scored them.
    """

    id: int
    request: TokenRequest
    arrived: float
    costs: np.ndarray
    next_item: int = 0
    parts: list[RequestLogprobs] = dataclasses.field(default_factory=list)
    steps: list[Step] = dataclasses.field(default_factory=list)

    @property
    def shared_cost(self) -> int:
        """Tokens that a slice costs beside its items."""
        if self.request.options.item_first:
            return 0
        return self.request.query.size + (self.request.options.delimiter != "none")

    @property
    def rest_cost(self) -> int:
        return self.shared_cost + int(self.costs[self.next_item :].sum())

    @property
    def finished(self) -> bool:
        return self.next_item == len(self.request.items)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Slice:
    """Some items of a waiting request, as a request of their own."""

    waiting: Waiting
    request: TokenRequest
    cost: int


class Line:
    """The requests that wait, in order."""

    def __init__(self, settings: BatchSettings) -> None:
        """Takes the budget of a batch."""
        self._settings = settings
        self._line: collections.OrderedDict[int, Waiting] = collections.OrderedDict()
        self._cost = 0

    def __len__(self) -> int:
        return len(self._line)

    def add(self, number: int, request: TokenRequest, now: float) -> None:
        costs = request.item_lens + request.label_rows + request.closing_delimiters
        if request.options.item_first:  # every item brings its own copy of the query
            costs += request.query.size
        waiting = Waiting(number, request, now, costs)
        self._line[number] = waiting
        self._cost += waiting.rest_cost

    def cancel(self, number: int) -> None:
        """Forgets a request, if it is still in line."""
        waiting = self._line.pop(number, None)
        if waiting is not None:
            self._cost -= waiting.rest_cost

    def due(self) -> float | None:
        """When the next batch should start, on the clock of `add`; None if the line is empty."""
        if not self._line:
            return None
        full = self._cost >= self._settings.max_tokens
        if full or len(self._line) >= self._settings.max_requests:
            return 0.0
        oldest = min(waiting.arrived for waiting in self._line.values())
        return oldest + self._settings.max_wait_s

    def take(self) -> list[Slice]:
        """The next batch. Requests whose last items are in it leave the line; the others go to its end."""
        batch: list[Slice] = []
        room = self._settings.max_tokens
        isolation = None
        for waiting in list(self._line.values()):
            if len(batch) == self._settings.max_requests or room <= 0:
                break
            # Scores of "causal" requests are about what stands beside an item: they get a pack of their own.
            if batch and (waiting.request.options.isolation != isolation or isolation == "causal"):
                continue
            end = self._slice_end(waiting, room, first=not batch)
            if end == waiting.next_item:
                continue
            isolation = waiting.request.options.isolation
            cost = waiting.shared_cost + int(waiting.costs[waiting.next_item : end].sum())
            batch.append(Slice(waiting, waiting.request.slice(waiting.next_item, end), cost))
            self._cost -= waiting.rest_cost
            del self._line[waiting.id]
            waiting.next_item = end
            room -= cost
        for one in batch:
            if not one.waiting.finished:
                self._line[one.waiting.id] = one.waiting
                self._cost += one.waiting.rest_cost
        return batch

    def _slice_end(self, waiting: Waiting, room: int, *, first: bool) -> int:
        begin, last = waiting.next_item, len(waiting.request.items)
        if waiting.request.options.isolation == "causal":
            return last if first else begin
        worth_it = 2 * waiting.shared_cost
        ends = waiting.shared_cost + np.cumsum(waiting.costs[begin:])
        if first:
            return begin + max(1, _num_within(ends, max(room, worth_it)))
        number = _num_within(ends, room)
        if begin + number == last or (number and int(ends[number - 1]) >= worth_it):
            return begin + number
        return begin


def _num_within(ends: np.ndarray, room: int) -> int:
    return int(np.searchsorted(ends, room, side="right"))
