"""Runs a batch of requests: chooses algorithms, cuts the requests into packs, computes them, collects the results."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from absl import logging
from jaxtyping import Array, Float

from isoprefill.attention.layout import PackedLayout, RequestShape
from isoprefill.attention.padding import bucket_size
from isoprefill.execution.algorithms import PLANS, Choice, choose_algorithm
from isoprefill.execution.item_readout import ItemReadout
from isoprefill.execution.model_runner import ModelRunner
from isoprefill.execution.packing import (
    ItemGroup,
    Pack,
    Rows,
    item_groups,
    pack_rows,
    with_bounded_columns,
)
from isoprefill.execution.prefix_cache import CachedPrefix, PrefixCache
from isoprefill.execution.readout import LogprobCollector, Readout
from isoprefill.modes import Algorithm, AlgorithmChoice, check_choice
from isoprefill.request.errors import RequestError, invalid_choice
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest

ProgressCallback = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Executor:
    """What a batch is run with.

    Attributes:
        runner: the model.
        cache: keys and values of earlier queries.
        pack_tokens: rows of one prefill.
        chunk_tokens: rows of one pack over a cached prefix.
    """

    runner: ModelRunner
    cache: PrefixCache
    pack_tokens: int
    chunk_tokens: int

    def run(
        self,
        requests: Sequence[TokenRequest],
        algorithm: AlgorithmChoice,
        on_progress: ProgressCallback | None = None,
    ) -> list[RequestLogprobs]:
        """Returns the log-probabilities of each request.

        Args:
            requests: checked against the model.
            algorithm: of all of them; "auto" chooses for each.
            on_progress: called with (items done, items in all) at the start and after each pack.

        Raises:
            RequestError: if there is no such algorithm, or a request cannot be scored by it.
            MissingLogprobError: naming the request and the item.
        """
        check_choice("algorithm", algorithm, AlgorithmChoice, invalid_choice)
        choices = [self._choose(request, algorithm) for request in requests]
        classes = self.runner.config.classes
        collectors = [LogprobCollector(request, classes) for request in requests]
        done, total = 0, sum(len(request.items) for request in requests)
        if on_progress is not None:
            on_progress(done, total)
        groups = item_groups(requests)
        for one in PLANS:
            chosen = [group for group in groups if choices[group.request_index].algorithm == one]
            for num_items in self._score(one, chosen, collectors):
                done += num_items
                if on_progress is not None:
                    on_progress(done, total)
        return [
            collector.result(choice) for collector, choice in zip(collectors, choices, strict=True)
        ]

    def automatic_choice(self, request: TokenRequest, seen_before: bool | None = None) -> Choice:
        """Returns what "auto" chooses; `seen_before` says instead of the cache whether the query came lately."""
        prefix = item_groups([request])[0].cacheable_prefix
        fits = self.cache.has_room_for(self.runner.prefix_bytes(prefix.size))
        if (prefix < 0).any():  # vectors, which the cache does not know
            seen_before = fits = False
        if seen_before is None:
            seen_before = self.cache.seen_before(prefix)
        return choose_algorithm(
            request,
            cached=self.cache.holds(prefix),
            seen_before=seen_before,
            fits_cache=fits,
            pack_tokens=self.pack_tokens,
        )

    def packs(self, algorithm: Algorithm, groups: Sequence[ItemGroup]) -> Iterator[Pack]:
        """Cuts groups into the packs in which an algorithm computes them."""
        plan = PLANS[algorithm]
        if not plan.over_prefix:
            return plan.cut(list(with_bounded_columns(groups, self.pack_tokens)), self.pack_tokens)
        groups = [dataclasses.replace(group, prefix_cached=True) for group in groups]
        # A pack has one prefix: two groups would have it twice.
        return itertools.chain.from_iterable(
            plan.cut([group], self.chunk_tokens)
            for group in with_bounded_columns(groups, self.chunk_tokens)
        )

    def with_empty_cache(self) -> "Executor":
        """Returns the same with a prefix cache of its own."""
        return dataclasses.replace(self, cache=PrefixCache(self.cache.budget_bytes))

    def _choose(self, request: TokenRequest, algorithm: AlgorithmChoice) -> Choice:
        if algorithm == "auto":
            choice = self.automatic_choice(request)
            logging.info(
                "%d items over %d query tokens: %s, because %s",
                len(request.items),
                request.query.size,
                choice.algorithm,
                choice.reason,
            )
            return choice
        if request.options.isolation == "causal" and algorithm != "packed":
            raise RequestError("invalid_isolation.algorithm", "isolation", got=repr(algorithm))
        return Choice(algorithm, "it was requested")

    def _score(
        self,
        algorithm: Algorithm,
        groups: Sequence[ItemGroup],
        collectors: Sequence[LogprobCollector],
    ) -> Iterator[int]:
        """Scores groups; yields how many items each pack had."""
        if not PLANS[algorithm].over_prefix:
            yield from self._score_packs(self.packs(algorithm, groups), None, collectors)
            return
        for group in groups:
            prefix, reused = self._prefix(Rows(group.cacheable_prefix, group.request.vectors))
            collectors[group.request_index].cached_tokens += reused
            yield from self._score_packs(self.packs(algorithm, [group]), prefix, collectors)

    def _prefix(self, rows: Rows) -> tuple[CachedPrefix, int]:
        """Returns a prefix, computed as far as the cache does not have it, and how many tokens the cache had.

        The cache knows prefixes by their tokens: one with vectors in it is never there.
        """
        if (rows.tokens < 0).any():
            return self.runner.prefix(rows), 0
        found, reused = self.cache.find(rows.tokens)
        if found is not None and reused == rows.tokens.size:
            return found, reused
        prefix = self.runner.prefix(rows, found, reused)
        self.cache.keep(prefix)
        return prefix, reused

    def _score_packs(
        self,
        packs: Iterator[Pack],
        prefix: CachedPrefix | None,
        collectors: Sequence[LogprobCollector],
    ) -> Iterator[int]:
        """Scores packs, as many side by side as there are data shards; yields how many items each had."""
        while side_by_side := list(itertools.islice(packs, self.runner.data_shards)):
            rows = [pack_rows(pack) for pack in side_by_side]
            padded = bucket_size(max(of_pack.tokens.size for of_pack in rows))
            columns = _num_columns(side_by_side, rows, padded, prefix)
            layouts = [_layout(pack, padded, columns) for pack in side_by_side]
            hidden = self.runner.hidden_states(rows, layouts, prefix)
            self._read(hidden, side_by_side, layouts, collectors)
            # An item whose labels are cut is done with the last of them.
            yield from (sum(group.num_done for group in pack) for pack in side_by_side)

    def _read(
        self,
        hidden: Float[Array, "D T E"],
        packs: Sequence[Pack],
        layouts: Sequence[PackedLayout],
        collectors: Sequence[LogprobCollector],
    ) -> None:
        """Reads packs side by side, and hands what was read to the collectors."""
        if self.runner.config.classes is not None:
            items = [ItemReadout.of(*one) for one in zip(packs, layouts, strict=True)]
            logits = self.runner.class_logits(hidden, [one.rows for one in items])
            takers = [collector.add_class_logits for collector in collectors]
            for of_pack, values in zip(items, logits, strict=True):
                of_pack.scatter(values, takers)
        else:
            readouts = [Readout.of(*one) for one in zip(packs, layouts, strict=True)]
            for readout, logprobs in zip(readouts, self.runner.read(hidden, readouts), strict=True):
                readout.scatter(logprobs, collectors)
        pooled = [
            ItemReadout.of(*one, lambda group: group.request.options.return_pooled_hidden_states)
            for one in zip(packs, layouts, strict=True)
        ]
        if any(one.groups for one in pooled):
            states = self.runner.states(hidden, [one.rows for one in pooled])
            stores = [collector.add_states for collector in collectors]
            for of_pack, values in zip(pooled, states, strict=True):
                of_pack.scatter(values, stores)


def _num_columns(
    packs: Sequence[Pack], rows: Sequence[Rows], padded: int, prefix: CachedPrefix | None
) -> int | None:
    """Returns the columns of packs of `padded` rows; None: as many as rows."""
    repeated = [sum(group.branches.repeated for group in pack) for pack in packs]
    if not any(repeated):
        return None if prefix is None else prefix.num_columns + padded
    used = [of_pack.tokens.size + more for of_pack, more in zip(rows, repeated, strict=True)]
    return (0 if prefix is None else prefix.num_columns) + bucket_size(max(used))


def _layout(pack: Pack, rows: int, columns: int | None) -> PackedLayout:
    shapes = [
        RequestShape(
            group.prefix.size,
            branches.lens,
            delimiter=group.request.options.delimiter,
            cached_prefix=group.prefix_cached,
            isolation=group.request.options.isolation,
            shared_lens=branches.shared_lens,
        )
        for group in pack
        for branches in (group.branches,)
    ]
    return PackedLayout.of_requests(shapes, pad_to=rows, pad_columns_to=columns)
