"""Compiles, before the first request, the programs that requests will need. Importing this does not import jax."""

import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from isoprefill.execution.packing import item_groups
from isoprefill.modes import Algorithm, AlgorithmChoice, check_choice
from isoprefill.request.labels import LabelSets
from isoprefill.request.options import ScoreOptions
from isoprefill.request.preparer import Preparer
from isoprefill.request.token_request import TokenRequest

if TYPE_CHECKING:
    from isoprefill.execution.executor import Executor

_FORM = re.compile(r"(\d+)\+(\d+)x(\d+)(?::(\d+))?(?:@(\w+))?")


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Requests of about one size.

    Attributes:
        query_tokens: tokens of the query.
        num_items: how many items.
        item_tokens: tokens of each item.
        num_labels: labels; 0 for likelihoods.
        algorithm: how they will be scored.
    """

    query_tokens: int
    num_items: int
    item_tokens: int
    num_labels: int = 0
    algorithm: AlgorithmChoice = "auto"

    def __post_init__(self) -> None:
        for name in ("query_tokens", "num_items", "item_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_labels < 0:
            raise ValueError(f"num_labels must be at least 0, got {self.num_labels}")
        check_choice("algorithm", self.algorithm, AlgorithmChoice)

    @classmethod
    def parse(cls, text: str) -> "Workload":
        """Reads "2000+500x20:2@packed": query, items x tokens, labels (none: likelihoods) and algorithm (auto).

        Raises:
            ValueError: if it is of another form.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(
                f"workload must be like '2000+500x20' or '2000+500x20:2@packed', got {text!r}"
            )
        query, items, length, labels = (int(number or 0) for number in match.groups()[:4])
        algorithm: Any = match[5] or "auto"  # checked below
        return cls(query, items, length, labels, algorithm)

    def request(self, num_items: int | None = None, first_token: int = 0) -> TokenRequest:
        """Returns a request of this size with no content, or of another number of items."""
        query = np.zeros(self.query_tokens, np.int32)
        query[0] = first_token
        item = np.zeros(self.item_tokens, np.int32)
        return TokenRequest(
            query,
            (item,) * (self.num_items if num_items is None else num_items),
            ScoreOptions(
                labels=LabelSets.shared([0] * self.num_labels) if self.num_labels else None
            ),
            request_id=f"warm-up {self}",
        )


def warm_up(
    executor: "Executor",
    preparer: Preparer,
    workloads: Sequence[Workload],
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compiles what workloads need; see `ScoringEngine.warm_up`. Leaves the executor's prefix cache alone.

    Raises:
        RequestError: if the model cannot score such a request.
    """
    for done, workload in enumerate(workloads):
        if on_progress is not None:
            on_progress(done, len(workloads))
        begin = time.monotonic()
        request = workload.request()
        preparer.limits.check(request)
        # An empty cache, because a query that begins like an earlier one compiles something else.
        empty = executor.with_empty_cache()
        algorithms: list[Algorithm]
        if workload.algorithm == "auto":
            choices = [empty.automatic_choice(request, again) for again in (False, True)]
            algorithms = list(dict.fromkeys(choice.algorithm for choice in choices))
        else:
            algorithms = [workload.algorithm]
        for algorithm in algorithms:
            # The first packs and the last, shorter one: those between are like the first.
            pack = next(empty.packs(algorithm, item_groups([request])))
            at_once = len(pack[0].items) * executor.runner.data_shards
            full = max(0, workload.num_items // at_once - 1)
            empty.run([workload.request(workload.num_items - full * at_once)], algorithm)
        logging.info("warm-up %s took %.1f s", workload, time.monotonic() - begin)
    if on_progress is not None:
        on_progress(len(workloads), len(workloads))


def batches_of_sizes(
    sizes: Sequence[int], vocab_size: int, labels: bool = True
) -> Iterator[list[TokenRequest]]:
    """Returns batches of so many tokens each: of one request and of four, with and without labels.

    What a batch compiles depends on its size, on its longest request and on what is read out. No query comes again or
    begins like another, which would be scored otherwise. A classification model takes no `labels`.
    """
    first_tokens = itertools.count()
    for size, num_labels, num_requests in itertools.product(
        sizes, (0, 2) if labels else (0,), (1, 4)
    ):
        length = max(1, size // num_requests // 2)
        item_tokens = min(16, length)
        workload = Workload(length, length // item_tokens, item_tokens, num_labels)
        yield [
            workload.request(first_token=next(first_tokens) % vocab_size)
            for _ in range(num_requests)
        ]
