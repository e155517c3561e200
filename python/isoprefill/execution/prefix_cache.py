"""Keys and values of queries, kept from one call to the next."""

import dataclasses
from collections import OrderedDict

from isoprefill.execution.branches import Tokens
from isoprefill.execution.forward import PrefixState
from isoprefill.integers import common_prefix

RECENT_QUERIES = 1_024  # remembered by their hash alone
# Tokens in common are reused in steps of so many. On a CPU the attention adds up columns in blocks of 128: with another
# step a row's bits would tell where the reused part ends (tests/engine/test_row_bits.py). And whoever is told how many
# tokens were reused cannot find out another's query one token after another.
REUSE_STEP = 128


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix:
    """A prefix that has been computed, and the tokens that it was computed of."""

    tokens: Tokens
    state: PrefixState

    @property
    def num_columns(self) -> int:
        """Columns of the keys and values: the tokens and then padding."""
        return self.state.keys.shape[1]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.state)


@dataclasses.dataclass(slots=True)
class PrefixCacheStats:
    """Counters since the cache was made.

    Attributes:
        hits: lookups that found the whole prefix.
        extensions: lookups that found its beginning.
        misses: lookups that found nothing of use.
        evictions: prefixes removed to stay within the budget.
        tokens_asked, tokens_reused: of all lookups together.
        num_bytes: what the prefixes take now.
        num_prefixes: how many there are now.
    """

    hits: int = 0
    extensions: int = 0
    misses: int = 0
    evictions: int = 0
    tokens_asked: int = 0
    tokens_reused: int = 0
    num_bytes: int = 0
    num_prefixes: int = 0


class PrefixCache:
    """The prefixes that were used last, by their token ids, within a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        """Begins empty; a budget of 0 keeps nothing."""
        if budget_bytes < 0:
            raise ValueError(f"budget_bytes must be at least 0, got {budget_bytes}")
        self.budget_bytes = budget_bytes
        # Both with the least recently used first; of recent queries only hashes.
        self._prefixes: OrderedDict[bytes, CachedPrefix] = OrderedDict()
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._stats = PrefixCacheStats()

    @property
    def stats(self) -> PrefixCacheStats:
        """Returns a copy of the counters."""
        return dataclasses.replace(
            self._stats, num_bytes=self._num_bytes(), num_prefixes=len(self._prefixes)
        )

    def has_room_for(self, num_bytes: int) -> bool:
        """Returns whether a prefix of so many bytes would be kept."""
        return num_bytes <= self.budget_bytes

    def holds(self, tokens: Tokens) -> bool:
        """Returns whether exactly this prefix is kept. Does not count as a use."""
        return _key(tokens) in self._prefixes

    def seen_before(self, tokens: Tokens) -> bool:
        """Returns whether this was called with the same prefix lately, and remembers it."""
        key = hash(_key(tokens))
        seen = key in self._recent
        self._recent[key] = None
        self._recent.move_to_end(key)
        if len(self._recent) > RECENT_QUERIES:
            self._recent.popitem(last=False)
        return seen

    def find(self, tokens: Tokens) -> tuple[CachedPrefix | None, int]:
        """Returns the prefix with the longest beginning in common, and how many tokens of it can be reused.

        All of them if it is the same prefix, else a multiple of REUSE_STEP and at least one less than `tokens` has: the
        last one must be computed for its hidden state.
        """
        self._stats.tokens_asked += tokens.size
        key, reused = _key(tokens), tokens.size
        if key not in self._prefixes:
            common = {
                other: min(common_prefix(tokens, prefix.tokens), tokens.size - 1)
                for other, prefix in self._prefixes.items()
            }
            key = max(common, key=lambda other: common[other], default=b"")
            reused = common.get(key, 0) // REUSE_STEP * REUSE_STEP
            if not reused:
                self._stats.misses += 1
                return None, 0
        self._stats.hits += reused == tokens.size
        self._stats.extensions += reused < tokens.size
        self._stats.tokens_reused += reused
        self._prefixes.move_to_end(key)
        return self._prefixes[key], reused

    def keep(self, prefix: CachedPrefix) -> None:
        """Keeps a prefix, and evicts those used longest ago until all fit. One that is too large is not kept."""
        if not self.has_room_for(prefix.num_bytes):
            return
        key = _key(prefix.tokens)
        self._prefixes[key] = prefix
        self._prefixes.move_to_end(key)
        while self._num_bytes() > self.budget_bytes:
            self._prefixes.popitem(last=False)
            self._stats.evictions += 1

    def clear(self) -> None:
        """Forgets all prefixes, and which came lately; the counters stay."""
        self._prefixes.clear()
        self._recent.clear()

    def _num_bytes(self) -> int:
        return sum(prefix.num_bytes for prefix in self._prefixes.values())


def _key(tokens: Tokens) -> bytes:
    return tokens.astype("<i4").tobytes()
