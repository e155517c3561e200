"""The items of a request, and how they travel from the tokenizer process to the scheduler."""

import dataclasses
import functools
import json
import uuid

import numpy as np
from jaxtyping import Int32, Int64

_MARK = "isoprefill-items:"


@dataclasses.dataclass(frozen=True)
class RequestItems:
    """The items of a request that is packed as `query | item 1 | … | item N`.

    Query and items have at least one token each. The result is the log-probability of every label after every item.
    """

    prefix_len: int
    item_lens: tuple[int, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values, least in (
            ("prefix_len", (self.prefix_len,), 1),
            ("item_lens", self.item_lens, 1),
            ("labels", self.labels, 0),
        ):
            if not values:
                raise ValueError(f"{name} must not be empty")
            for value in values:
                if type(value) is not int or not least <= value < 2**31:
                    raise ValueError(f"{name} must be integers from {least} to 2^31, got {value!r}")

    @property
    def num_tokens(self) -> int:
        """Tokens of query and items."""
        return self.prefix_len + sum(self.item_lens)

    @functools.cached_property
    def item_ends(self) -> Int64[np.ndarray, "N"]:
        """The end of each item: one past its last token, counted from the query's first token."""
        return self.prefix_len + np.cumsum(self.item_lens, dtype=np.int64)

    def own_begins(self, start: int, end: int) -> Int64[np.ndarray, "n"]:
        """Returns for tokens `start` to `end` the first token of the token's item, or `prefix_len` in the query."""
        ends = self.item_ends
        item = np.searchsorted(ends, np.arange(start, end), side="right")
        return np.concatenate(([self.prefix_len], ends))[item]

    def positions(self, start: int, end: int) -> Int32[np.ndarray, "n"]:
        """Returns the positions of tokens `start` to `end`; they restart at `prefix_len` for every item."""
        tokens = np.arange(start, end)
        restarted = self.prefix_len + tokens - self.own_begins(start, end)
        return np.where(tokens < self.prefix_len, tokens, restarted).astype(np.int32)

    def readouts(self, start: int, end: int) -> Int64[np.ndarray, "n"]:
        """Returns the last tokens of the items that end inside tokens `start` to `end`."""
        last = self.item_ends - 1
        return last[(last >= start) & (last < end)]

    def encode(self) -> str:
        """Returns the items as the `extra_key` of an sglang-jax request.

        sglang-jax carries this string from the front end to the scheduler, on all hosts, and its prefix cache is keyed
        by it. It differs each time, so that no other request finds the keys and values of items, which depend on more
        than the tokens before them.
        """
        fields = [uuid.uuid4().hex, self.prefix_len, self.item_lens, self.labels]
        return _MARK + json.dumps(fields)

    @classmethod
    def decode(cls, extra_key: str | None) -> "RequestItems | None":
        """Returns the items that `extra_key` carries; None for an ordinary request.

        Raises:
            ValueError: it carries no valid request.
        """
        if extra_key is None or not extra_key.startswith(_MARK):
            return None
        try:
            _, prefix_len, item_lens, labels = json.loads(extra_key.removeprefix(_MARK))
            return cls(prefix_len, tuple(item_lens), tuple(labels))
        except (TypeError, ValueError, RecursionError) as error:  # deep nesting raises the last
            raise ValueError(f"extra_key carries no valid multi-item request: {error}") from error
