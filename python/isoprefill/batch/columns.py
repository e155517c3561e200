"""Which columns of the input are scored, and what the columns of the output are called."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputColumns:
    """The columns that are read; a row is an item, or with `items` a query and a list of items.

    Attributes:
        query: text or token ids.
        item: text or token ids; None: there are lists.
        items: a list of texts or of lists of token ids; None: a row is an item.
        label: the label of a row's item, or the list of its labels; None: there is no such column.
    """

    query: str = "query"
    item: str | None = "item"
    items: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if (self.item is None) == (self.items is None):
            raise ValueError("give exactly one of item-column and items-column")
        if self.label is not None and self.items is not None:
            raise ValueError(
                "label-column needs a row for each item: it has no meaning with items-column"
            )
        for name in self.names:
            if not name:
                raise ValueError("the name of a column is empty")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"columns must differ, got {', '.join(map(repr, self.names))}")

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(
            name for name in (self.query, self.item, self.items, self.label) if name is not None
        )

    @property
    def scored(self) -> str:
        """The column that holds the item or the items."""
        return self.item or self.items or ""


NUM_TOKENS, ERROR = "num_tokens", "error"


def score_names(labels: Sequence[str]) -> list[str]:
    """Returns what the columns of the scores are called: one for each label or class, or "score" alone."""
    return [f"score_{label}" for label in labels] or ["score"]


def output_names(inputs: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Returns what the input's columns are called in the output: "input_" stands before a name that is also ours.

    Raises:
        ValueError: two columns would then have one name.
    """
    taken = {*ours, NUM_TOKENS, ERROR}
    names = [f"input_{name}" if name in taken else name for name in inputs]
    for place, name in enumerate(names):
        if name in taken or name in names[:place]:
            raise ValueError(
                f"two columns of the output would be called {name!r}: rename one of the input's"
            )
    return names
