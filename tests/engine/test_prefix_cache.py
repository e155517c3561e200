"""The prefix cache by itself: what it keeps, what it gives up, and what it counts.

If one of these fails, a server runs out of memory, computes queries again, or takes another query's keys and values.
"""

import numpy as np
import pytest

from isoprefill.execution.forward import PrefixState
from isoprefill.execution.prefix_cache import RECENT_QUERIES, REUSE_STEP, CachedPrefix, PrefixCache

ARRAY_BYTES = 3 * 8 * 4


def tokens(*ids: int) -> np.ndarray:
    return np.asarray(ids, np.int32)


def prefix(ids: np.ndarray) -> CachedPrefix:
    """A prefix of 96 bytes whose values are its first token."""
    arrays = (np.full(shape, ids[0], np.float32) for shape in ((1, 8, 1, 1), (1, 8, 1, 1), (8,)))
    return CachedPrefix(ids, PrefixState(*arrays))


def long_tokens(first: int, length: int = 100) -> np.ndarray:
    return np.arange(first, first + length, dtype=np.int32)


def test_the_least_recently_used_goes_when_the_budget_is_spent():
    cache = PrefixCache(3 * ARRAY_BYTES)
    ids = [tokens(index) for index in range(4)]
    for one in ids[:3]:
        cache.keep(prefix(one))
    cache.find(ids[0])  # now the oldest is 1
    cache.keep(prefix(ids[3]))
    assert [cache.holds(one) for one in ids] == [True, False, True, True]
    stats = cache.stats
    assert (stats.num_bytes, stats.num_prefixes, stats.evictions) == (3 * ARRAY_BYTES, 3, 1)


def test_what_is_larger_than_the_budget_is_not_kept_and_drives_nothing_out():
    cache = PrefixCache(ARRAY_BYTES)
    cache.keep(prefix(tokens(1)))
    large = CachedPrefix(tokens(2), PrefixState(*(np.zeros((1, 16, 1, 1)),) * 2, np.zeros(8)))
    cache.keep(large)
    assert cache.holds(tokens(1))
    assert not cache.holds(tokens(2))
    nothing = PrefixCache(0)
    nothing.keep(prefix(tokens(1)))
    assert nothing.find(tokens(1)) == (None, 0)
    with pytest.raises(ValueError, match="budget_bytes must be at least 0, got -1"):
        PrefixCache(-1)


def test_keeping_a_prefix_again_counts_its_bytes_once():
    cache = PrefixCache(1000)
    for _ in range(3):
        cache.keep(prefix(tokens(1)))
    assert cache.stats.num_bytes == ARRAY_BYTES
    cache.clear()
    assert (cache.stats.num_bytes, cache.stats.num_prefixes) == (0, 0)
    assert not cache.holds(tokens(1))


def test_a_prefix_is_found_by_its_own_tokens_only():
    cache = PrefixCache(1000)
    cache.keep(prefix(tokens(1, 2, 3)))
    found, reused = cache.find(tokens(1, 2, 3))
    assert (found.tokens.tolist(), reused) == ([1, 2, 3], 3)
    assert cache.find(tokens(1, 2)) == (None, 0), "a few tokens are not worth it"
    assert cache.find(tokens(1, 2, 4)) == (None, 0)
    stats = cache.stats
    assert (stats.hits, stats.misses, stats.extensions) == (1, 2, 0)
    assert (stats.tokens_asked, stats.tokens_reused) == (8, 3)


def test_the_longest_common_beginning_is_reused():
    cache = PrefixCache(1000)
    step = REUSE_STEP
    short, long = long_tokens(0, step + 8), np.r_[long_tokens(0, 2 * step + 6), tokens(7)]
    cache.keep(prefix(long))
    cache.keep(prefix(short))
    found, reused = cache.find(long_tokens(0, 3 * step))
    assert (found.tokens.size, reused) == (long.size, 2 * step)
    # All of this one is there, but for its last hidden state.
    found, reused = cache.find(long_tokens(0, 2 * step))
    assert (found.tokens.size, reused) == (long.size, step)
    assert cache.find(long_tokens(0, REUSE_STEP)) == (None, 0)
    stats = cache.stats
    assert (stats.hits, stats.extensions, stats.misses) == (0, 2, 1)
    assert (stats.tokens_asked, stats.tokens_reused) == (6 * step, 3 * step)


def test_a_kept_query_cannot_be_found_out_token_by_token():
    """What is reused is told to whoever asks: REUSE_STEP tokens must be guessed at once, or all that are left."""
    cache = PrefixCache(1000)
    step = REUSE_STEP
    secret = long_tokens(0, 3 * step + 4)
    cache.keep(prefix(secret))

    def told(guessed: int) -> int:
        return cache.find(np.r_[secret[:guessed], np.full(20, 999, np.int32)])[1]

    assert {told(guessed) for guessed in range(step)} == {0}
    assert {told(guessed) for guessed in range(step, 2 * step)} == {step}
    assert {told(guessed) for guessed in range(3 * step, secret.size + 1)} == {3 * step}


def test_queries_asked_lately_are_remembered_and_no_more():
    cache = PrefixCache(0)
    assert not cache.seen_before(tokens(1))
    assert cache.seen_before(tokens(1))
    for index in range(2, 2 + RECENT_QUERIES):
        assert not cache.seen_before(tokens(index))
    assert not cache.seen_before(tokens(1))


def test_a_cleared_cache_has_seen_nothing():
    """Else a request after it would be scored by another algorithm than on a new engine."""
    cache = PrefixCache(ARRAY_BYTES)
    cache.seen_before(tokens(1))
    cache.clear()
    assert not cache.seen_before(tokens(1))
