"""The labels that items are scored by, as data."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from isoprefill.integers import flat_integers, shortened
from isoprefill.request.errors import RequestError
from isoprefill.request.label_trie import LabelTrie

FIELD = "label_token_ids"
MOST_ID = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSets:
    """One list of labels for all items, or one list for each.

    A label is one or several token ids. Its probability is the sum of theirs, or with `in_sequence` that of all of
    them, one after another. Lists and labels may differ in length: shorter ones end in -1.

    Attributes:
        token_ids: [1, L, S] for all items alike or [N, L, S]: the S tokens of label l. What is all -1 is no label.
        each: a single list is that of a single item, not one for all.
        in_sequence: the tokens of a label follow one another; otherwise each of them is the label.
        field: what the caller gave them as, for errors.
    """

    token_ids: Int32[np.ndarray, "lists L S"]
    each: bool = False
    in_sequence: bool = False
    field: str = FIELD

    def __post_init__(self) -> None:
        ids = self.token_ids
        if ids.ndim != 3 or ids.dtype != np.int32:
            raise ValueError(
                f"token_ids must be int32 [lists, labels, tokens], got {ids.dtype} {list(ids.shape)}"
            )
        if ids.size and ids.min() >= 0:  # no list is shorter than another
            return
        present = ids >= 0
        if not ids.size or not present[:, 0, 0].all():
            raise RequestError("empty_label_token_ids", self.field)
        labels = present[:, :, 0]
        if (present[:, :, 1:] > present[:, :, :-1]).any() or (labels[:, 1:] > labels[:, :-1]).any():
            raise ValueError(
                "token_ids must have its -1 after all labels and all tokens of a label"
            )

    @classmethod
    def shared(
        cls, labels: Sequence[int] | Sequence[Sequence[int]], *, in_sequence: bool = False
    ) -> "LabelSets":
        """The same labels for every item; each is a token id or a list of token ids."""
        return cls(_padded([_label_list(labels, in_sequence)]), in_sequence=in_sequence)

    @classmethod
    def per_item(
        cls,
        lists: Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]],
        *,
        in_sequence: bool = False,
    ) -> "LabelSets":
        """A list of labels for each item; each label is a token id or a list of token ids."""
        return cls(
            _padded([_label_list(one, in_sequence, index) for index, one in enumerate(lists)]),
            each=True,
            in_sequence=in_sequence,
        )

    @classmethod
    def parse(cls, value: Any) -> "LabelSets":
        """The labels as the API writes them: `[1, 2]` for all items, `[[1, 2], [3]]` a list for each.

        One list deeper, `[[[1, 2], [3]], [[4]]]`, each label is a list of tokens whose probabilities are added.

        Raises:
            RequestError: unless it is one of these.
        """
        if isinstance(value, LabelSets):
            return value
        if _is_list(value) and len(value) and all(map(_is_list, value)):
            return cls.per_item(value)
        return cls(_padded([[[token] for token in _flat(value)]]))

    @property
    def is_shared(self) -> bool:
        """Whether there is one list for all items."""
        return self.token_ids.shape[0] == 1 and not self.each

    @property
    def needs_rows(self) -> bool:
        """Whether labels have tokens that must be computed after the item: all but the last of each."""
        return self.in_sequence and self.token_ids.shape[2] > 1

    def check_count(self, num_items: int) -> None:
        """Raises RequestError unless there is one list for all items, or one for each of them."""
        lists = self.token_ids.shape[0]
        if not self.is_shared and lists != num_items:
            raise RequestError("label_count_mismatch", self.field, limit=num_items, value=lists)

    def of_stream(self, begin: int, num_items: int) -> "LabelSets":
        """The labels of the next items of a stream whose number is not known yet.

        Raises:
            RequestError: there are lists for each item, but not for so many.
        """
        if begin + num_items > self.token_ids.shape[0]:
            self.check_count(begin + num_items)
        return self.slice(begin, begin + num_items)

    def slice(self, begin: int, end: int) -> "LabelSets":
        """Returns the labels of items `begin` to `end`."""
        if self.is_shared:
            return self
        return dataclasses.replace(self, token_ids=self.token_ids[begin:end], each=True)

    def for_items(self, items: Int32[np.ndarray, "n"]) -> Int32[np.ndarray, "n L S"]:
        """The labels of these items, given by their indices."""
        return self.token_ids[np.zeros_like(items) if self.token_ids.shape[0] == 1 else items]

    def tries(
        self, items: Int32[np.ndarray, "n"], label_range: tuple[int, int] | None = None
    ) -> list[LabelTrie]:
        """The trees of the labels of these items, or of some of their labels. They are sequences."""
        lists = np.zeros_like(items) if self.token_ids.shape[0] == 1 else items
        if label_range is not None:
            return [LabelTrie.of(self.token_ids[one, slice(*label_range)]) for one in lists]
        return [self._tries[one] for one in lists]

    @functools.cached_property
    def _tries(self) -> list[LabelTrie]:
        """The trees of all lists, of which many are mostly alike."""
        known: dict[bytes, LabelTrie] = {}
        for labels in self.token_ids:
            if (key := labels.tobytes()) not in known:
                known[key] = LabelTrie.of(labels)
        return [known[labels.tobytes()] for labels in self.token_ids]

    def num_rows(self, num_items: int) -> Int64[np.ndarray, "N"]:
        """How many tokens of labels must be computed after each of the items."""
        if not self.needs_rows:
            return np.zeros(num_items, np.int64)
        tries = self.tries(np.arange(num_items, dtype=np.int32))
        return np.asarray([trie.tokens.size for trie in tries], np.int64)

    def num_branches(self, num_items: int) -> Int64[np.ndarray, "N"]:
        """In how many branches these tokens follow each of the items."""
        if not self.needs_rows:
            return np.ones(num_items, np.int64)
        tries = self.tries(np.arange(num_items, dtype=np.int32))
        return np.asarray([trie.num_branches for trie in tries], np.int64)

    def most_rows(self, num_items: int) -> Int64[np.ndarray, "N"]:
        """How many of these tokens the longest label of each of the items has."""
        if not self.needs_rows:
            return np.zeros(num_items, np.int64)
        return self.num_tokens(num_items).max(axis=1).astype(np.int64) - 1

    def num_tokens(self, num_items: int) -> Int32[np.ndarray, "N L"]:
        """How many tokens in sequence each label of each of the items has; 0 where there is no label."""
        present = self.token_ids >= 0
        counts = present.sum(axis=2) if self.in_sequence else present[:, :, 0]
        counts = counts.astype(np.int32)
        return np.repeat(counts, num_items, axis=0) if len(counts) == 1 else counts

    def num_labels(self, num_items: int) -> Int32[np.ndarray, "N"]:
        """How many labels each of the items has."""
        counts = (self.token_ids[:, :, 0] >= 0).sum(axis=1).astype(np.int32)
        return np.broadcast_to(counts, num_items).copy() if counts.size == 1 else counts


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)


def _label_list(labels: Any, in_sequence: bool, *index: int) -> list[list[int]]:
    """Each label as its token ids; every id once, unless they are in sequence."""
    if _is_list(labels) and any(map(_is_list, labels)):
        lists = [
            _flat(label if _is_list(label) else [label], *index, place)
            for place, label in enumerate(labels)
        ]
        return lists if in_sequence else [list(dict.fromkeys(one)) for one in lists]
    return [[token] for token in _flat(labels, *index)]


def _flat(values: Any, *index: int) -> list[int]:
    """The token ids of what must be a flat list of them; `index` is its place in the field."""
    plain = type(values) is list and values and all(type(one) is int for one in values)
    if plain and min(values) >= 0 and max(values) <= MOST_ID:
        return list(values)
    try:
        tokens = flat_integers(FIELD, values)
    except ValueError:
        raise RequestError(
            "invalid_label_token_ids_type",
            FIELD,
            *index,
            expected="a flat list of at least 1 token id",
            got=shortened(values),
        ) from None
    if not tokens.size:
        raise RequestError("empty_label_token_ids", FIELD, *index)
    for place, token in enumerate(tokens.tolist()):
        if token < 0:
            raise RequestError("negative_token_id", FIELD, *index, place, value=token)
        if token > MOST_ID:
            raise RequestError("token_id_exceeds_vocab.int32", FIELD, *index, place, value=token)
    return tokens.tolist()


def _padded(lists: list[list[list[int]]]) -> Int32[np.ndarray, "lists L S"]:
    width = max((len(labels) for labels in lists), default=0)
    depth = max((len(label) for labels in lists for label in labels), default=0)
    ids = np.full((len(lists), width, depth), -1, np.int32)
    for place, labels in enumerate(lists):
        for index, label in enumerate(labels):
            ids[place, index, : len(label)] = label
    return ids
