"""The labels that items are scored by, as data."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from isoprefill.integers import flat_integers, shortened
from isoprefill.request.errors import RequestError

FIELD = "label_token_ids"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LabelSets:
    """One list of labels for all items, or one list for each.

    A label is one or several token ids; its probability is the sum of theirs. Lists and labels may differ in
    length: shorter ones end in -1.

    Attributes:
        token_ids: [1, L, S] for all items alike or [N, L, S]: the S tokens of label l. What is all -1 is no label.
        each: a single list is that of a single item, not one for all.
    """

    token_ids: Int32[np.ndarray, "lists L S"]
    each: bool = False

    def __post_init__(self) -> None:
        ids = self.token_ids
        if ids.ndim != 3 or ids.dtype != np.int32:
            raise ValueError(
                f"token_ids must be int32 [lists, labels, tokens], got {ids.dtype} {list(ids.shape)}"
            )
        present = ids >= 0
        if not ids.size or not present[:, 0, 0].all():
            raise RequestError("empty_label_token_ids", FIELD)
        labels = present[:, :, 0]
        if (present[:, :, 1:] > present[:, :, :-1]).any() or (labels[:, 1:] > labels[:, :-1]).any():
            raise ValueError(
                "token_ids must have its -1 after all labels and all tokens of a label"
            )

    @classmethod
    def shared(cls, labels: Sequence[int] | Sequence[Sequence[int]]) -> "LabelSets":
        """The same labels for every item; each is a token id or a list of token ids."""
        return cls(_padded([_label_list(labels)]))

    @classmethod
    def per_item(
        cls, lists: Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]]
    ) -> "LabelSets":
        """A list of labels for each item; each label is a token id or a list of token ids."""
        return cls(
            _padded([_label_list(one, index) for index, one in enumerate(lists)]),
            each=True,
        )

    @classmethod
    def parse(cls, value: Any) -> "LabelSets":
        """The labels as the API writes them: `[1, 2]` for all items, `[[1, 2], [3]]` a list for each.

        One list deeper, `[[[1, 2], [3]], [[4]]]`, each label is a list of tokens.

        Raises:
            RequestError: unless it is one of these.
        """
        if isinstance(value, LabelSets):
            return value
        if _is_list(value) and len(value) and all(map(_is_list, value)):
            return cls.per_item(value)
        return cls.shared(_flat(value))

    @property
    def is_shared(self) -> bool:
        """Whether there is one list for all items."""
        return self.token_ids.shape[0] == 1 and not self.each

    def check_count(self, num_items: int) -> None:
        """Raises RequestError unless there is one list for all items, or one for each of them."""
        lists = self.token_ids.shape[0]
        if not self.is_shared and lists != num_items:
            raise RequestError("label_count_mismatch", FIELD, limit=num_items, value=lists)

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
        return self if self.is_shared else LabelSets(self.token_ids[begin:end], each=True)

    def for_items(self, items: Int32[np.ndarray, "n"]) -> Int32[np.ndarray, "n L S"]:
        """The labels of these items, given by their indices."""
        return self.token_ids[np.zeros_like(items) if self.token_ids.shape[0] == 1 else items]

    def num_labels(self, num_items: int) -> Int32[np.ndarray, "N"]:
        """How many labels each of the items has."""
        counts = (self.token_ids[:, :, 0] >= 0).sum(axis=1).astype(np.int32)
        return np.broadcast_to(counts, num_items).copy() if counts.size == 1 else counts


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)


def _label_list(labels: Any, *index: int) -> list[list[int]]:
    """Each label as its token ids, every id once."""
    if _is_list(labels) and any(map(_is_list, labels)):
        return [
            list(dict.fromkeys(_flat(label if _is_list(label) else [label], *index, place)))
            for place, label in enumerate(labels)
        ]
    return [[token] for token in _flat(labels, *index)]


def _flat(values: Any, *index: int) -> list[int]:
    """The token ids of what must be a flat list of them; `index` is its place in the field."""
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
        if token > np.iinfo(np.int32).max:
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
